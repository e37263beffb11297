"""Keys and values as 8-bit integers, one scale per token and head.

Shape legend: D head size; any axes before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 127


def quantize(x_D: Tensor) -> tuple[Tensor, Tensor]:
    """Round to 8 bits: int8 of the same shape, and float32 scales without the last axis, x ~ int8 * scale."""
    scale = x_D.abs().amax(dim=-1).float() / _STEPS
    divisor = torch.where(scale > 0, scale, 1.0)
    return (x_D / divisor[..., None]).round().clamp(-_STEPS, _STEPS).to(torch.int8), scale


def dequantize(x_D: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to rounding."""
    return (x_D.float() * scale[..., None]).to(dtype)
