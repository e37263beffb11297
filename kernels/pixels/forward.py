"""Launches the Triton kernel that rounds pixels to bytes.

Shapes: T frames, H W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.launch import launch
from ultraflash.kernels.tiles import Tiles

TILES = Tiles(m=256, j=1, warps=4, stages=1)
"""Two quads a lane, on every device."""


def run(pixels_THWC: Tensor, *, layout: str, offset: float, interpret: bool) -> Tensor:
    """uint8, contiguous: (T, H, W, 3) for ``rgb``, else (T, 3H/2, W)."""
    from .triton import pack_quads

    frames, height, width, _ = pixels_THWC.shape
    shape = (frames, height, width, 3) if layout == "rgb" else (frames, height * 3 // 2, width)
    made = torch.empty(shape, dtype=torch.uint8, device=pixels_THWC.device)
    quad_rows, quad_cols = -(-height // 2), -(-width // 2)
    arguments = {
        "x_ptr": pixels_THWC,
        "byte_ptr": made,
        "height": height,
        "width": width,
        "quad_rows": quad_rows,
        "quad_cols": quad_cols,
        **dict(zip(("x_frame", "x_row", "x_col", "x_colour"), pixels_THWC.stride(), strict=True)),
        "pixel_offset": offset,
        "TILE_M": TILES.m,
        "PLANES": layout != "rgb",
        "INTERLEAVED": layout == "nv12",
    }
    programs = (-(-quad_rows * quad_cols // TILES.m), frames)
    launch(pack_quads, programs, arguments, interpret=interpret, warps=TILES.warps, stages=TILES.stages)
    return made
