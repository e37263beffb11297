"""Text states on their way from one prompt to the next, see :mod:`ultraflash.models.transition`.

Shapes: X text tokens, W text width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ultraflash.models.stream_state import PromptBlend


def blend_between(source_1XW: Tensor, target_1XW: Tensor, groups: int) -> PromptBlend:
    """A blend that has not begun; the shorter of the two gets rows of zeros, which is what missing ones count as."""
    rows = max(source_1XW.shape[1], target_1XW.shape[1])
    source, target = (F.pad(x, (0, 0, 0, rows - x.shape[1])) for x in (source_1XW, target_1XW))
    return PromptBlend(source_1XW=source, target_1XW=target, groups=groups)
