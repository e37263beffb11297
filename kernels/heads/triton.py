"""Triton kernel that norms, rotates and regroups what attention works on, one pass over memory.

Shape legend: B batch, L tokens in reading order, N heads, D head size, E = N * D width (SIZE, filled up to WIDTH),
G blocks, T tokens of a block, M tokens of a tile.
"""

import triton
import triton.language as tl


@triton.jit
def token_at(
    place,
    rows,
    cols,
    row_blocks,
    col_blocks,
    BLOCK_F: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Frame, row and column of each `place` of a sample in block layout, padding included."""
    T: tl.constexpr = BLOCK_F * BLOCK_H * BLOCK_W
    block = place // T
    inner = place % T
    col = block % col_blocks * BLOCK_W + inner % BLOCK_W
    row = block // col_blocks % row_blocks * BLOCK_H + inner // BLOCK_W % BLOCK_H
    frame = block // col_blocks // row_blocks * BLOCK_F + inner // BLOCK_W // BLOCK_H
    return frame, row, col


@triton.jit
def heads_of(
    x_ptr,
    norm_weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    places,
    sample_places,
    frames,
    rows,
    cols,
    row_blocks,
    col_blocks,
    x_batch,
    x_token,
    eps,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE_M: tl.constexpr,
    NORM: tl.constexpr,
    ROTATE: tl.constexpr,
    GRID: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One tile of places of the result (B * sample_places, SIZE), contiguous: each takes the token that belongs there.

    Without GRID places are tokens. Cosines and sines are contiguous (L, PAIRS) float32, PAIRS = D / 2.
    """
    place = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    inside = place < places
    batch = (place // sample_places).to(tl.int64)
    token = place % sample_places
    filled = inside
    if GRID:
        frame, row, col = token_at(token, rows, cols, row_blocks, col_blocks, BLOCK_F, BLOCK_H, BLOCK_W)
        filled = inside & (frame < frames) & (row < rows) & (col < cols)
        token = (frame * rows + row) * cols + col
    column = tl.arange(0, WIDTH)
    within = column[None, :] < SIZE
    at = batch[:, None] * x_batch + token[:, None].to(tl.int64) * x_token + column[None, :]
    x = tl.load(x_ptr + at, mask=filled[:, None] & within, other=0.0).to(tl.float32)
    if NORM:
        # Of padding, whose sum is 0, the root may be 0 too.
        scale = tl.where(filled, 1.0 / tl.sqrt(tl.sum(x * x, 1) / SIZE + eps), 0.0)
        x = x * scale[:, None] * tl.load(norm_weight_ptr + column, mask=column < SIZE, other=0.0)[None, :]
    if ROTATE:
        pair = tl.arange(0, WIDTH // 2)
        angle_at = token[:, None].to(tl.int64) * PAIRS + (pair % PAIRS)[None, :]
        turned = filled[:, None] & (pair[None, :] < SIZE // 2)
        cos = tl.load(cos_ptr + angle_at, mask=turned, other=0.0)
        sin = tl.load(sin_ptr + angle_at, mask=turned, other=0.0)
        even, odd = tl.split(tl.reshape(x, [TILE_M, WIDTH // 2, 2]))
        turned_pairs = tl.join(even * cos - odd * sin, even * sin + odd * cos)
        x = tl.reshape(turned_pairs, [TILE_M, WIDTH])
    out_at = out_ptr + place[:, None].to(tl.int64) * SIZE + column[None, :]
    tl.store(out_at, x.to(out_ptr.dtype.element_ty), mask=inside[:, None] & within)
