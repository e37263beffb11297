"""Launches the Triton kernel that norms, rotates and regroups.

Shapes: B batch, L tokens, N heads, D head size, E = N * D width, G blocks, T tokens of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.kernels.launch import launch, tile_width
from ultraflash.kernels.tiles import FALLBACK_ROWS, INTERPRETED_ROWS, Tiles, tiles_for


def run(
    x_BLE: Tensor,
    heads: int,
    *,
    weight_E: Tensor | None,
    eps: float,
    rope: Tensor | None,
    grid: BlockGrid | None,
    interpret: bool,
    tiles: Tiles | None = None,
) -> Tensor:
    """(B, L, N, D), or (B, G, T, N, D) with a grid, contiguous, in the dtype of `x_BLE`."""
    from .triton import heads_of

    batch, tokens, size = x_BLE.shape
    x = x_BLE if x_BLE.stride(-1) == 1 else x_BLE.contiguous()
    places = (tokens,) if grid is None else (grid.n_blocks, grid.block_tokens)
    out = torch.empty(batch, *places, heads, size // heads, dtype=x.dtype, device=x.device)
    sample_places = out.numel() // batch // size
    if tiles is None:
        known = ("heads_of", x.device, x.dtype, tile_width(size))
        tiles = INTERPRETED_ROWS if interpret else tiles_for(*known, fallback=FALLBACK_ROWS)
    # Where there is no norm or no rotation, the input stands in for pointers that are never read.
    cos, sin = (x, x) if rope is None else rope.float().contiguous()
    frames, rows, cols = (1, 1, tokens) if grid is None else grid.shape
    block = (1, 1, 1) if grid is None else grid.block
    arguments = {
        "x_ptr": x,
        "norm_weight_ptr": x if weight_E is None else weight_E.float().contiguous(),
        "cos_ptr": cos,
        "sin_ptr": sin,
        "out_ptr": out,
        "places": batch * sample_places,
        "sample_places": sample_places,
        "frames": frames,
        "rows": rows,
        "cols": cols,
        "row_blocks": 1 if grid is None else grid.row_blocks,
        "col_blocks": 1 if grid is None else grid.col_blocks,
        "x_batch": x.stride(0),
        "x_token": x.stride(1),
        "eps": eps,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "PAIRS": size // heads // 2,
        "TILE_M": tiles.m,
        "NORM": weight_E is not None,
        "ROTATE": rope is not None,
        "GRID": grid is not None,
        **dict(zip(("BLOCK_F", "BLOCK_H", "BLOCK_W"), block, strict=True)),
    }
    programs = (-(-batch * sample_places // tiles.m),)
    launch(heads_of, programs, arguments, interpret=interpret, warps=tiles.warps, stages=tiles.stages)
    return out
