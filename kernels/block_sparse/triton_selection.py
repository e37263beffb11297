"""Triton kernels that choose key blocks without a mask over all pairs and without waiting for the GPU.

Shape legend: B batch, N heads, G blocks, T tokens of a block, Q query blocks, W places that a query block may look at:
all key frame blocks, times the rows and columns of its window. A row is a (batch, head, query block) triple.

Places are enumerated frame block, row, column, so the key blocks that they stand for ascend. Place 0 is always allowed.
"""

import triton
import triton.language as tl

from ultraflash.kernels.online_softmax import load_row, load_tile


@triton.jit(do_not_specialize=["first_place"])
def block_means(
    x_ptr,
    x_scale_ptr,
    mean_ptr,
    x_batch,
    x_block,
    x_token,
    x_head,
    scale_batch,
    blocks,
    heads,
    first_block,
    all_blocks,
    first_place,
    places,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_T: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    """Mean over the tokens of one block of one head, into (B, N, all_blocks, SIZE) float32 from `first_block` on.

    Blocks are read from `first_place` on, and at the beginning again after `places` of them.
    """
    RAGGED: tl.constexpr = T % TILE_T != 0
    block = (tl.program_id(0) % blocks).to(tl.int64)
    head = ((tl.program_id(0) // blocks) % heads).to(tl.int64)
    batch = (tl.program_id(0) // blocks // heads).to(tl.int64)
    place = block + first_place
    place = tl.where(place < places, place, place - places)
    base = x_ptr + batch * x_batch + place * x_block + head * x_head
    scale_base = x_scale_ptr + batch * scale_batch + place * T * heads + head
    total = tl.full([WIDTH], 0.0, tl.float32)
    for token in range(0, T, TILE_T):
        tile = load_tile(base, x_token, token, T, SIZE, WIDTH, TILE_T, RAGGED).to(tl.float32)
        if QUANTIZED:
            tile = tile * load_row(scale_base, heads, token, T, TILE_T, RAGGED)[:, None]
        total += tl.sum(tile, 0)
    column = tl.arange(0, WIDTH)
    at = mean_ptr + ((batch * heads + head) * all_blocks + first_block + block) * SIZE + column
    tl.store(at, total / T, mask=column < SIZE)


@triton.jit
def key_block_of(
    place,
    query_block,
    row_blocks,
    col_blocks,
    window_rows,
    window_cols,
    cached_frames,
    key_frames,
    local_range,
    chunk_blocks,
    CAUSAL: tl.constexpr,
):
    """The key block that each of `place` stands for, and whether `query_block` is allowed to look at it."""
    spatial = row_blocks * col_blocks
    row = (query_block % spatial) // col_blocks
    col = query_block % col_blocks
    first_row = row - local_range // 2
    first_col = col - local_range // 2
    window = window_rows * window_cols
    frame = place // window
    key_row = tl.maximum(first_row, 0) + (place % window) // window_cols
    key_col = tl.maximum(first_col, 0) + place % window_cols
    allowed = (frame < key_frames) & (key_row < row_blocks) & (key_col < col_blocks)
    allowed = allowed & (key_row < first_row + local_range) & (key_col < first_col + local_range)
    if CAUSAL:
        query_chunk = (query_block // spatial + cached_frames) // chunk_blocks
        allowed = allowed & (frame // chunk_blocks <= query_chunk)
    return frame * spatial + key_row * col_blocks + key_col, allowed


@triton.jit
def pair_scores(
    q_mean_ptr,
    k_mean_ptr,
    score_ptr,
    query_blocks,
    key_blocks,
    places,
    row_blocks,
    col_blocks,
    window_rows,
    window_cols,
    cached_frames,
    key_frames,
    local_range,
    chunk_blocks,
    root,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_W: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Score q k / root of every place of one row, (B, N, Q, W) float32; -inf where it is not allowed."""
    row = tl.program_id(0)
    query_block = row % query_blocks
    pair = (row // query_blocks).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < SIZE
    q = tl.load(q_mean_ptr + row.to(tl.int64) * SIZE + column, mask=inside, other=0.0)
    for first in range(0, places, TILE_W):
        place = first + tl.arange(0, TILE_W)
        key, allowed = key_block_of(
            place, query_block, row_blocks, col_blocks, window_rows, window_cols,
            cached_frames, key_frames, local_range, chunk_blocks, CAUSAL,
        )  # fmt: skip
        key_at = k_mean_ptr + pair * key_blocks * SIZE + key.to(tl.int64)[:, None] * SIZE + column[None, :]
        k = tl.load(key_at, mask=allowed[:, None] & inside[None, :], other=0.0)
        score = tl.where(allowed, tl.sum(k * q[None, :], 1) / root, float("-inf"))
        tl.store(score_ptr + row.to(tl.int64) * places + place, score, mask=place < places)


@triton.jit
def kept_places(
    weight_ptr,
    threshold_ptr,
    count_ptr,
    row_ptr,
    col_idx,
    query_blocks,
    spatial_blocks,
    places,
    row_blocks,
    col_blocks,
    window_rows,
    window_cols,
    cached_frames,
    key_frames,
    local_range,
    chunk_blocks,
    TILE_W: tl.constexpr,
    CAUSAL: tl.constexpr,
    DIAGONAL: tl.constexpr,
    WRITE: tl.constexpr,
):
    """Count the key blocks that one row keeps or, with WRITE, put them at col_idx[row_ptr[row] :], ascending.

    Kept is what is allowed and reaches the threshold of its query frame block; place 0 where nothing does; and, with
    DIAGONAL, the query block itself.
    """
    row = tl.program_id(0)
    query_block = row % query_blocks
    threshold = tl.load(threshold_ptr + row // spatial_blocks)
    base = weight_ptr + row.to(tl.int64) * places
    reached = 0
    counted = 0
    for first in range(0, places, TILE_W):
        place = first + tl.arange(0, TILE_W)
        key, allowed = key_block_of(
            place, query_block, row_blocks, col_blocks, window_rows, window_cols,
            cached_frames, key_frames, local_range, chunk_blocks, CAUSAL,
        )  # fmt: skip
        kept = allowed & (tl.load(base + place, mask=place < places, other=0.0) >= threshold)
        reached += tl.sum(kept.to(tl.int32), 0)
        if DIAGONAL:
            kept = kept | (allowed & (key == query_block))
        counted += tl.sum(kept.to(tl.int32), 0)
    if WRITE:
        at = tl.load(row_ptr + row)
        for first in range(0, places, TILE_W):
            place = first + tl.arange(0, TILE_W)
            key, allowed = key_block_of(
                place, query_block, row_blocks, col_blocks, window_rows, window_cols,
                cached_frames, key_frames, local_range, chunk_blocks, CAUSAL,
            )  # fmt: skip
            kept = allowed & (tl.load(base + place, mask=place < places, other=0.0) >= threshold)
            kept = kept | (reached + place == 0)
            if DIAGONAL:
                kept = kept | (allowed & (key == query_block))
            rank = tl.cumsum(kept.to(tl.int32), 0)
            tl.store(col_idx + at + rank - 1, key, mask=kept)
            at += tl.sum(kept.to(tl.int32), 0)
    else:
        first_key, _ = key_block_of(
            0, query_block, row_blocks, col_blocks, window_rows, window_cols,
            cached_frames, key_frames, local_range, chunk_blocks, CAUSAL,
        )  # fmt: skip
        # The query block itself is place 0 only if it is the first that it may look at.
        extra = reached == 0
        if DIAGONAL:
            extra = extra & (first_key != query_block)
        tl.store(count_ptr + row, counted + extra.to(tl.int32))
