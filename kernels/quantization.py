"""Keys and values in 8 bits: integers, one scale per token and head, or floating point, one per block and head.

Shape legend: D head size; any axes before it. B batch, G blocks, T tokens of a block, N heads.
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


FLOAT8 = torch.float8_e4m3fn
"""Sign, 4 bits of exponent, 3 of mantissa: a relative error of 1/16 at most, and values up to 448."""


def quantize_blocks(x_BGTND: Tensor) -> tuple[Tensor, Tensor]:
    """Round to e4m3: the same shape in `FLOAT8`, and float32 scales (B, G, N), x ~ e4m3 * scale."""
    scale_BGN = x_BGTND.abs().amax(dim=(2, 4)).float() / torch.finfo(FLOAT8).max
    divisor = torch.where(scale_BGN > 0, scale_BGN, 1.0)
    return (x_BGTND / divisor[:, :, None, :, None]).to(FLOAT8), scale_BGN


def dequantize_blocks(x_BGTND: Tensor, scale_BGN: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize_blocks`, up to rounding."""
    return (x_BGTND.float() * scale_BGN[:, :, None, :, None]).to(dtype)
