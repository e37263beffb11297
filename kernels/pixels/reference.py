"""Pixels to bytes as the definitions read.

The colour matrix is that of ITU-R BT.709, sections 3.2 to 3.4: luma = 0.2126 R + 0.7152 G + 0.0722 B, in 219 steps from
16; chroma (B - luma) / 1.8556 and (R - luma) / 1.5748, in 224 steps around 128.

Shapes: T frames, H W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.2126, 0.7152, 0.0722)


def pack(pixels_THWC: Tensor, *, layout: str, offset: float) -> Tensor:
    """uint8 (T, H, W, 3) for ``rgb``, else (T, 3H/2, W)."""
    if layout == "rgb":
        return quantize(pixels_THWC.contiguous(), offset=offset)
    frames, height, width, _ = pixels_THWC.shape
    luma_THW, chroma_T2hw = planes((pixels_THWC.float() + offset).clamp_(0, 1))
    chroma = chroma_T2hw if layout == "yuv420p" else chroma_T2hw.movedim(1, 3)
    parts = (luma_THW.add_(16.5).flatten(1), chroma.add_(128.5).flatten(1))
    return torch.cat(parts, dim=1).to(torch.uint8).view(frames, height * 3 // 2, width)


def planes(rgb_THWC: Tensor) -> tuple[Tensor, Tensor]:
    """How far luma (T, H, W) and the two planes of chroma (T, 2, H/2, W/2) are from those of black, in bytes that are
    not rounded; linear in the colours, so that a linear decoder may make them at once."""
    quarter = rgb_THWC.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean(dim=(2, 4))
    luma_quarter = _luma(quarter)
    blue = (224 / 1.8556) * (quarter[..., 2] - luma_quarter)
    red = (224 / 1.5748) * (quarter[..., 0] - luma_quarter)
    return 219 * _luma(rgb_THWC), torch.stack((blue, red), dim=1)


def _luma(rgb: Tensor) -> Tensor:
    return _LUMA[0] * rgb[..., 0] + _LUMA[1] * rgb[..., 1] + _LUMA[2] * rgb[..., 2]


def quantize(pixels: Tensor, *, offset: float) -> Tensor:
    """Return contiguous ``pixels + offset`` as uint8: values in [0, 1] times 255, rounded; others clamped.

    Goes through small pieces, because fresh float32 copies of whole frames cost more than the arithmetic.
    """
    frames = torch.empty(pixels.shape, dtype=torch.uint8, device=pixels.device)
    piece = 1 << 17 if pixels.device.type == "cpu" else max(1, pixels.numel())
    for values, target in zip(pixels.view(-1).split(piece), frames.view(-1).split(piece), strict=True):
        target.copy_((values.float() * 255).add_(255 * offset + 0.5).clamp_(0, 255))
    return frames
