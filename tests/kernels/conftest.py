"""Fixtures of the tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True, scope="module")
def _outputs_start_wrong() -> Iterator[None]:
    """What a kernel leaves unwritten shows: it is NaN, or the largest number where there is no NaN."""

    def filled(make: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = make(*args, **kwargs)
            if made.dtype == torch.bool:
                return made
            return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).max)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for where, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            patch.setattr(where, name, filled(getattr(where, name)))
        yield
