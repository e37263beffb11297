"""Triton kernel of block-sparse attention, forward.

Shape legend: B batch, N heads, Q query blocks, T tokens of a block, M queries and J keys of a tile. A row is a
(batch, head, query block) triple.

Keys and values are read where they lie: cached blocks and new blocks have their own base pointers and strides, and
since the blocks of a row ascend, the cached ones come first. The cache may be a ring, and its keys and values of
another type than the queries: a floating one, or int8 with a float32 scale per token and head.
"""

import triton
import triton.language as tl

from ultraflash.kernels.online_softmax import load_row, load_tile, product, softmax_step, store_tile


@triton.jit
def attend_listed(
    acc,
    highest,
    total,
    q,
    col_idx,
    start,
    stop,
    offset,
    ring_blocks,
    k_base,
    v_base,
    k_scale_base,
    v_scale_base,
    stride_block,
    stride_token,
    heads,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTIZED: tl.constexpr,
    RING: tl.constexpr,
):
    """Attend to the blocks col_idx[start:stop]. Block b lies at place b + offset of the memory given, which with RING
    goes on at its beginning after `ring_blocks` places.
    """
    TILES: tl.constexpr = (T + TILE_J - 1) // TILE_J
    RAGGED: tl.constexpr = T % TILE_J != 0
    # One flat loop over tiles, since only an innermost loop is pipelined.
    for step in range(start * TILES, stop * TILES):
        place = tl.load(col_idx + step // TILES) + offset
        if RING:
            place = tl.where(place < ring_blocks, place, place - ring_blocks)
        block = place.to(tl.int64)
        token = (step % TILES) * TILE_J
        k = load_tile(k_base + block * stride_block, stride_token, token, T, SIZE, WIDTH, TILE_J, RAGGED)
        v = load_tile(v_base + block * stride_block, stride_token, token, T, SIZE, WIDTH, TILE_J, RAGGED)
        if QUANTIZED:  # by way of float32: the interpreter takes integers for the bits of bfloat16
            k, v = k.to(tl.float32).to(q.dtype), v.to(tl.float32).to(q.dtype)
        else:  # a cache may be kept in fewer bits than queries have
            k, v = k.to(q.dtype), v.to(q.dtype)
        nothing = tl.full([q.shape[0], TILE_J], 0.0, tl.float32)
        scores = product(q, tl.trans(k), nothing, PRECISION) * score_scale
        v_scale = score_scale
        if QUANTIZED:
            scale_at = block * T * heads
            scores *= load_row(k_scale_base + scale_at, heads, token, T, TILE_J, RAGGED)[None, :]
            v_scale = load_row(v_scale_base + scale_at, heads, token, T, TILE_J, RAGGED)
        if RAGGED:
            scores = tl.where((token + tl.arange(0, TILE_J) < T)[None, :], scores, float("-inf"))
        acc, highest, total = softmax_step(acc, highest, total, scores, v, v_scale, PRECISION, QUANTIZED)
    return acc, highest, total


@triton.jit
def count_below(col_idx, start, stop, limit):
    """How many of the ascending col_idx[start:stop] are smaller than `limit`."""
    count = 0
    for at in range(start, stop, 64):
        place = at + tl.arange(0, 64)
        blocks = tl.load(col_idx + place, mask=place < stop, other=limit)
        count += tl.sum((blocks < limit).to(tl.int32), 0)
    return count


# The place moves on with every call, which must not compile the kernel anew.
@triton.jit(do_not_specialize=["cached_first"])
def attend_forward(
    q_ptr,
    k_ptr,
    v_ptr,
    cached_k_ptr,
    cached_v_ptr,
    k_scale_ptr,
    v_scale_ptr,
    row_ptr,
    col_idx,
    out_ptr,
    lse_ptr,
    new_batch,
    new_block,
    new_token,
    new_head,
    cached_batch,
    cached_block,
    cached_token,
    cached_head,
    scale_batch,
    heads,
    query_blocks,
    cached_blocks,
    cached_first,
    ring_blocks,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
    CACHED: tl.constexpr,
    RING: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    """One tile of queries of one row.

    Queries and out are contiguous (B, Q, T, N, SIZE), lse (B, N, Q, T) float32 in natural logarithm, -inf where a row
    selects nothing. The oldest of `cached_blocks` is at `cached_first` of `ring_blocks` places; with RING they go round
    their end. Scales are (B, places, T, N), contiguous but for B. `score_scale` is log2(e) / sqrt(SIZE).
    """
    TILES: tl.constexpr = (T + TILE_M - 1) // TILE_M
    RAGGED: tl.constexpr = T % TILE_M != 0
    row = tl.program_id(0) // TILES
    token = (tl.program_id(0) % TILES) * TILE_M
    head = ((row // query_blocks) % heads).to(tl.int64)
    batch = (row // query_blocks // heads).to(tl.int64)
    stride = heads * SIZE
    at = (batch * query_blocks + row % query_blocks) * T * stride + head * SIZE
    q = load_tile(q_ptr + at, stride, token, T, SIZE, WIDTH, TILE_M, RAGGED)
    acc = tl.full([TILE_M, WIDTH], 0.0, tl.float32)
    highest = tl.full([TILE_M], float("-inf"), tl.float32)
    total = tl.full([TILE_M], 0.0, tl.float32)
    start = tl.load(row_ptr + row)
    stop = tl.load(row_ptr + row + 1)
    if CACHED:
        split = start + count_below(col_idx, start, stop, cached_blocks)
        cached_at = batch * cached_batch + head * cached_head
        scale_at = batch * scale_batch + head
        acc, highest, total = attend_listed(
            acc, highest, total, q, col_idx, start, split, cached_first, ring_blocks,
            cached_k_ptr + cached_at, cached_v_ptr + cached_at, k_scale_ptr + scale_at, v_scale_ptr + scale_at,
            cached_block, cached_token, heads, score_scale,
            T, SIZE, WIDTH, TILE_J, PRECISION, QUANTIZED, RING,
        )  # fmt: skip
        start = split
    new_at = batch * new_batch + head * new_head
    acc, highest, total = attend_listed(
        acc, highest, total, q, col_idx, start, stop, -cached_blocks, ring_blocks,
        k_ptr + new_at, v_ptr + new_at, k_scale_ptr, v_scale_ptr, new_block, new_token, heads, score_scale,
        T, SIZE, WIDTH, TILE_J, PRECISION, False, False,
    )  # fmt: skip
    # Nothing selected: zeros and -inf, without dividing by zero.
    divisor = tl.where(total > 0, total, 1.0)
    store_tile(out_ptr + at, stride, token, T, acc / divisor[:, None], SIZE, WIDTH, TILE_M, RAGGED)
    lse = (highest + tl.log2(divisor)) * 0.6931471805599453
    place = token + tl.arange(0, TILE_M)
    tl.store(lse_ptr + row.to(tl.int64) * T + place, lse, mask=place < T)
