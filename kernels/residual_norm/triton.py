"""Triton kernel of the gated sum and the modulated LayerNorm, one pass over the stream.

Shape legend: B batch, L tokens, E width (SIZE, filled up to WIDTH), M tokens of a tile.
"""

import triton
import triton.language as tl


@triton.jit
def frame_row(
    base,
    row,
    inside,
    tokens,
    frame_tokens,
    stride_batch,
    stride_frame,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PER_FRAME: tl.constexpr,
):
    """Numbers (M or 1, WIDTH) that belong to the frames of the tokens `row`, or to all of them."""
    column = tl.arange(0, WIDTH)
    if PER_FRAME:
        frame = (row // tokens).to(tl.int64) * stride_batch + (row % tokens) // frame_tokens * stride_frame
        at = base + frame[:, None] + column[None, :]
        found = tl.load(at, mask=inside[:, None] & (column[None, :] < SIZE), other=0.0)
    else:
        found = tl.load(base + column, mask=column < SIZE, other=0.0)[None, :]
    return found


@triton.jit
def residual_norm(
    stream_ptr,
    update_ptr,
    gate_ptr,
    factor_ptr,
    offset_ptr,
    new_stream_ptr,
    normed_ptr,
    rows,
    tokens,
    gate_tokens,
    gate_batch,
    gate_frame,
    factor_tokens,
    factor_batch,
    factor_frame,
    offset_batch,
    offset_frame,
    eps,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    UPDATE: tl.constexpr,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    PER_FRAME: tl.constexpr,
):
    """new_stream = stream + gate * update where UPDATE, and its LayerNorm * factor + offset where NORM.

    Streams, update and normed are contiguous (B * L, SIZE), the streams float32. `gate_tokens` and `factor_tokens`
    are tokens of a frame as gates and factors count them.
    """
    row = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    inside = row < rows
    column = tl.arange(0, WIDTH)
    here = inside[:, None] & (column[None, :] < SIZE)
    at = row[:, None].to(tl.int64) * SIZE + column[None, :]
    x = tl.load(stream_ptr + at, mask=here, other=0.0)
    if UPDATE:
        update = tl.load(update_ptr + at, mask=here, other=0.0).to(tl.float32)
        if GATED:
            update *= frame_row(
                gate_ptr, row, inside, tokens, gate_tokens, gate_batch, gate_frame, SIZE, WIDTH, True
            )
        x += update
        tl.store(new_stream_ptr + at, x, mask=here)
    if NORM:
        mean = tl.sum(x, 1) / SIZE
        centred = tl.where(here, x - mean[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / SIZE + eps)
        factor = frame_row(
            factor_ptr, row, inside, tokens, factor_tokens, factor_batch, factor_frame, SIZE, WIDTH, PER_FRAME
        )
        offset = frame_row(
            offset_ptr, row, inside, tokens, factor_tokens, offset_batch, offset_frame, SIZE, WIDTH, PER_FRAME
        )
        normed = centred * scale[:, None] * factor + offset
        tl.store(normed_ptr + at, normed.to(normed_ptr.dtype.element_ty), mask=here)
