"""Triton kernels of block-sparse attention, backward.

Shape legend: B batch, N heads, Q query blocks, K key blocks, T tokens of a block, M queries and J keys of a tile. A row
is a (batch, head, query block) triple, a column a (batch, head, key block) triple.

With weights p = exp(s - lse), s = q k / sqrt(SIZE) and delta = sum over SIZE of out * d_out:
d_v = p^T d_out, d_s = p (d_out v^T - delta), d_q = d_s k / sqrt(SIZE), d_k = d_s^T q / sqrt(SIZE).
"""

import triton
import triton.language as tl

from ultraflash.kernels.online_softmax import load_row, load_tile, product, store_tile

from .triton import count_below


@triton.jit
def query_gradient_listed(
    d_q,
    q,
    d_out,
    lse,
    delta,
    col_idx,
    start,
    stop,
    first_block,
    k_base,
    v_base,
    stride_block,
    stride_token,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add d_s k over the blocks col_idx[start:stop]; the memory given begins with block `first_block`."""
    TILES: tl.constexpr = (T + TILE_J - 1) // TILE_J
    RAGGED: tl.constexpr = T % TILE_J != 0
    for step in range(start * TILES, stop * TILES):
        block = (tl.load(col_idx + step // TILES) - first_block).to(tl.int64)
        token = (step % TILES) * TILE_J
        k = load_tile(k_base + block * stride_block, stride_token, token, T, SIZE, WIDTH, TILE_J, RAGGED)
        v = load_tile(v_base + block * stride_block, stride_token, token, T, SIZE, WIDTH, TILE_J, RAGGED)
        nothing = tl.full([q.shape[0], TILE_J], 0.0, tl.float32)
        weights = tl.exp2(product(q, tl.trans(k), nothing, PRECISION) * score_scale - lse[:, None])
        if RAGGED:
            weights = tl.where((token + tl.arange(0, TILE_J) < T)[None, :], weights, 0.0)
        d_weights = product(d_out, tl.trans(v), nothing, PRECISION)
        d_scores = weights * (d_weights - delta[:, None])
        d_q = product(d_scores.to(k.dtype), k, d_q, PRECISION)
    return d_q


@triton.jit
def query_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    cached_k_ptr,
    cached_v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    row_ptr,
    col_idx,
    d_q_ptr,
    new_batch,
    new_block,
    new_token,
    new_head,
    cached_batch,
    cached_block,
    cached_token,
    cached_head,
    heads,
    query_blocks,
    cached_blocks,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
    CACHED: tl.constexpr,
):
    """d_q of one tile of one row. Arguments as in `attend_forward`; lse and delta are (B, N, Q, T) float32."""
    TILES: tl.constexpr = (T + TILE_M - 1) // TILE_M
    RAGGED: tl.constexpr = T % TILE_M != 0
    row = tl.program_id(0) // TILES
    token = (tl.program_id(0) % TILES) * TILE_M
    block = row % query_blocks
    head = ((row // query_blocks) % heads).to(tl.int64)
    batch = (row // query_blocks // heads).to(tl.int64)
    stride = heads * SIZE
    at = (batch * query_blocks + block) * T * stride + head * SIZE

    q = load_tile(q_ptr + at, stride, token, T, SIZE, WIDTH, TILE_M, RAGGED)
    d_out = load_tile(d_out_ptr + at, stride, token, T, SIZE, WIDTH, TILE_M, RAGGED)
    lse = load_row(lse_ptr + row.to(tl.int64) * T, 1, token, T, TILE_M, RAGGED) * 1.4426950408889634
    delta = load_row(delta_ptr + row.to(tl.int64) * T, 1, token, T, TILE_M, RAGGED)
    d_q = tl.full([TILE_M, WIDTH], 0.0, tl.float32)
    start = tl.load(row_ptr + row)
    stop = tl.load(row_ptr + row + 1)
    if CACHED:
        split = start + count_below(col_idx, start, stop, cached_blocks)
        cached_at = batch * cached_batch + head * cached_head
        d_q = query_gradient_listed(
            d_q, q, d_out, lse, delta, col_idx, start, split, 0,
            cached_k_ptr + cached_at, cached_v_ptr + cached_at, cached_block, cached_token, score_scale,
            T, SIZE, WIDTH, TILE_J, PRECISION,
        )  # fmt: skip
        start = split
    new_at = batch * new_batch + head * new_head
    d_q = query_gradient_listed(
        d_q, q, d_out, lse, delta, col_idx, start, stop, cached_blocks,
        k_ptr + new_at, v_ptr + new_at, new_block, new_token, score_scale,
        T, SIZE, WIDTH, TILE_J, PRECISION,
    )  # fmt: skip
    # score_scale carries log2(e), for exp2.
    store_tile(
        d_q_ptr + at, stride, token, T, d_q * (score_scale * 0.6931471805599453), SIZE, WIDTH, TILE_M, RAGGED
    )


@triton.jit
def key_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    col_ptr,
    row_idx,
    d_k_ptr,
    d_v_ptr,
    k_batch,
    k_block,
    k_token,
    k_head,
    heads,
    query_blocks,
    blocks,
    first_block,
    key_blocks,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_k and d_v of one tile of one key block, from the query blocks that see it.

    The memory given holds `blocks` of the `key_blocks`, from `first_block` on; d_k and d_v are contiguous
    (B, blocks, T, N, SIZE). Column c is seen by the query blocks row_idx[col_ptr[c] : col_ptr[c + 1]].
    """
    KEY_TILES: tl.constexpr = (T + TILE_J - 1) // TILE_J
    QUERY_TILES: tl.constexpr = (T + TILE_M - 1) // TILE_M
    RAGGED_J: tl.constexpr = T % TILE_J != 0
    RAGGED_M: tl.constexpr = T % TILE_M != 0
    place = tl.program_id(0) // KEY_TILES
    token = (tl.program_id(0) % KEY_TILES) * TILE_J
    block = (place % blocks).to(tl.int64)
    head = ((place // blocks) % heads).to(tl.int64)
    batch = (place // blocks // heads).to(tl.int64)
    stride = heads * SIZE

    at = batch * k_batch + block * k_block + head * k_head
    k = load_tile(k_ptr + at, k_token, token, T, SIZE, WIDTH, TILE_J, RAGGED_J)
    v = load_tile(v_ptr + at, k_token, token, T, SIZE, WIDTH, TILE_J, RAGGED_J)
    d_k = tl.full([TILE_J, WIDTH], 0.0, tl.float32)
    d_v = tl.full([TILE_J, WIDTH], 0.0, tl.float32)
    nothing = tl.full([TILE_J, TILE_M], 0.0, tl.float32)
    column = (batch * heads + head) * key_blocks + first_block + block
    start = tl.load(col_ptr + column)
    stop = tl.load(col_ptr + column + 1)
    for step in range(start * QUERY_TILES, stop * QUERY_TILES):
        query_block = tl.load(row_idx + step // QUERY_TILES).to(tl.int64)
        query = (step % QUERY_TILES) * TILE_M
        query_at = (batch * query_blocks + query_block) * T * stride + head * SIZE
        row_at = ((batch * heads + head) * query_blocks + query_block) * T
        q = load_tile(q_ptr + query_at, stride, query, T, SIZE, WIDTH, TILE_M, RAGGED_M)
        d_out = load_tile(d_out_ptr + query_at, stride, query, T, SIZE, WIDTH, TILE_M, RAGGED_M)
        lse = load_row(lse_ptr + row_at, 1, query, T, TILE_M, RAGGED_M) * 1.4426950408889634
        delta = load_row(delta_ptr + row_at, 1, query, T, TILE_M, RAGGED_M)
        # Queries past T are zeros with zero gradients, so their weights of one add nothing.
        weights = tl.exp2(product(k, tl.trans(q), nothing, PRECISION) * score_scale - lse[None, :])
        d_v = product(weights.to(q.dtype), d_out, d_v, PRECISION)
        d_weights = product(v, tl.trans(d_out), nothing, PRECISION)
        d_scores = weights * (d_weights - delta[None, :])
        d_k = product(d_scores.to(q.dtype), q, d_k, PRECISION)
    out_at = (batch * blocks + block) * T * stride + head * SIZE
    d_k = d_k * (score_scale * 0.6931471805599453)
    store_tile(d_k_ptr + out_at, stride, token, T, d_k, SIZE, WIDTH, TILE_J, RAGGED_J)
    store_tile(d_v_ptr + out_at, stride, token, T, d_v, SIZE, WIDTH, TILE_J, RAGGED_J)
