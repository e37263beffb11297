"""Decoded pixels to bytes: RGB to look at, or the planes that a video encoder takes.

Encoders want 12 bits a pixel, luma and quartered chroma, instead of 24: half of what has to leave a GPU, and nothing
left to convert on the CPU. Colours are BT.709 in limited range.

Backends:

- ``reference``: PyTorch; what ``auto`` is on a CPU;
- ``triton``: one pass over memory, on a GPU;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU.

Shapes: T frames, H W rows and columns.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ultraflash.kernels.backends import fused_backend

from . import forward, reference
from .reference import planes, quantize

__all__ = ["PixelLayout", "pack", "planes", "quantize"]

PixelLayout = Literal["rgb", "yuv420p", "nv12"]
"""Bytes of a frame: ``rgb`` (H, W, 3); ``yuv420p`` (3H/2, W), luma, then one plane of each chroma; ``nv12`` the same,
the two chroma numbers beside each other."""

OPERATOR = "packing of pixels"


def pack(
    pixels_THWC: Tensor, *, layout: PixelLayout = "rgb", offset: float = 0.0, backend: str = "auto"
) -> Tensor:
    """Round pixels to bytes.

    Args:
        pixels_THWC: (T, H, W, 3) of any floating dtype and any strides; pixels + offset is RGB in [0, 1], what lies
            outside is clamped.
        layout: of the result.
        offset: added to the pixels.
        backend: "auto", or one of `backends.FUSED`.

    Returns:
        uint8, contiguous: (T, H, W, 3) for ``rgb``, else (T, 3H/2, W). Chroma is that of the mean of 2x2 pixels.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: not three colours, no such layout, or an odd size where chroma is quartered.
    """
    _, height, width, colours = pixels_THWC.shape
    if layout not in get_args(PixelLayout):
        raise ValueError(f"pixels are packed as {get_args(PixelLayout)}, not {layout!r}")
    if colours != 3 or (layout != "rgb" and (height % 2 or width % 2)):
        raise ValueError(
            f"{layout} wants three colours{'' if layout == 'rgb' else ' and even sizes'}, "
            f"not {tuple(pixels_THWC.shape)}"
        )
    name = fused_backend(OPERATOR, backend, (pixels_THWC,), _probe)
    if name == "reference":
        return reference.pack(pixels_THWC, layout=layout, offset=offset)
    return forward.run(pixels_THWC, layout=layout, offset=offset, interpret=name == "interpreter")


def _probe(device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    pixels_THWC = torch.rand(2, 4, 6, 3, device=device, generator=generator)
    made = forward.run(pixels_THWC, layout="nv12", offset=0.1, interpret=False)
    wanted = reference.pack(pixels_THWC, layout="nv12", offset=0.1)
    # Contracted products may land on the other side of a half.
    return bool((made.int() - wanted.int()).abs().max() <= 1)
