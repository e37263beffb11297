"""Fixtures of the tests of kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def outputs_start_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten shows."""

    def filled(make: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = make(*args, **kwargs)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return call

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
