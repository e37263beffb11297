"""Triton kernel of block-sparse attention over 8-bit floating point (e4m3), forward.

Shape legend: B batch, N heads, Q query blocks, K key blocks, T tokens of a block, M queries and J keys of a tile. A row
is a (batch, head, query block) triple.

A scale per block and head is a number of a tile, so products are corrected after the tensor cores. It also keeps sums
in float32: they leave the tensor cores' own, narrower accumulators after every tile.
"""

import triton
import triton.language as tl

from ultraflash.kernels.online_softmax import load_tile, product, store_tile

WEIGHT_SCALE = tl.constexpr(256.0)
"""Weights of at most 1 are stored as at most 256, of e4m3's 448, so that those down to 2^-17 are not lost."""


@triton.jit
def as_loaded(tile, PRECISION: tl.constexpr):
    """Numbers of a tile. The interpreter gets their bytes, since it cannot fill up a tile of e4m3 with zeros."""
    if PRECISION == "float32":
        tile = tile.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    return tile


@triton.jit
def rounded_weights(weights, PRECISION: tl.constexpr):
    """Weights in [0, 1], as e4m3 of `WEIGHT_SCALE` times as much."""
    scaled = weights * WEIGHT_SCALE
    if PRECISION == "float32":
        # The interpreter loses a carry into the exponent. So by arithmetic: steps of 2^-3 of the power of two below.
        step = tl.exp2(tl.maximum(tl.floor(tl.log2(tl.maximum(scaled, 1e-30))), -6.0) - 3.0)
        rounded = tl.floor(scaled / step + 0.5) * step
    else:
        rounded = scaled.to(tl.float8e4nv)
    return rounded


@triton.jit
def attend_fp8(
    q_ptr,
    k_ptr,
    v_ptr,
    q_scale_ptr,
    k_scale_ptr,
    v_scale_ptr,
    row_ptr,
    col_idx,
    out_ptr,
    lse_ptr,
    heads,
    query_blocks,
    key_blocks,
    score_scale,
    T: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of queries of one row.

    Queries are contiguous (B, Q, T, N, SIZE), keys and values (B, K, T, N, SIZE), all e4m3; scales are contiguous
    (B, Q or K, N) float32. out is like the queries in a wider type, lse is contiguous (B, N, Q, T) float32 in natural
    logarithm, -inf where a row selects nothing. `score_scale` is log2(e) / sqrt(SIZE).
    """
    QUERY_TILES: tl.constexpr = (T + TILE_M - 1) // TILE_M
    QUERY_RAGGED: tl.constexpr = T % TILE_M != 0
    TILES: tl.constexpr = (T + TILE_J - 1) // TILE_J
    RAGGED: tl.constexpr = T % TILE_J != 0
    row = tl.program_id(0) // QUERY_TILES
    first = (tl.program_id(0) % QUERY_TILES) * TILE_M
    head = ((row // query_blocks) % heads).to(tl.int64)
    batch = (row // query_blocks // heads).to(tl.int64)
    stride = heads * SIZE
    query_block = batch * query_blocks + row % query_blocks
    at = query_block * T * stride + head * SIZE
    q = as_loaded(load_tile(q_ptr + at, stride, first, T, SIZE, WIDTH, TILE_M, QUERY_RAGGED), PRECISION)
    q_scale = tl.load(q_scale_ptr + query_block * heads + head) * score_scale

    acc = tl.full([TILE_M, WIDTH], 0.0, tl.float32)
    highest = tl.full([TILE_M], float("-inf"), tl.float32)
    total = tl.full([TILE_M], 0.0, tl.float32)
    start = tl.load(row_ptr + row)
    stop = tl.load(row_ptr + row + 1)
    # One flat loop over tiles, since only an innermost loop is pipelined.
    for step in range(start * TILES, stop * TILES):
        key_block = batch * key_blocks + tl.load(col_idx + step // TILES)
        token = (step % TILES) * TILE_J
        key_at = key_block * T * stride + head * SIZE
        k = as_loaded(load_tile(k_ptr + key_at, stride, token, T, SIZE, WIDTH, TILE_J, RAGGED), PRECISION)
        v = as_loaded(load_tile(v_ptr + key_at, stride, token, T, SIZE, WIDTH, TILE_J, RAGGED), PRECISION)
        k_scale = tl.load(k_scale_ptr + key_block * heads + head)
        v_scale = tl.load(v_scale_ptr + key_block * heads + head)
        no_scores = tl.full([TILE_M, TILE_J], 0.0, tl.float32)
        scores = product(q, tl.trans(k), no_scores, PRECISION) * (q_scale * k_scale)
        if RAGGED:
            scores = tl.where((token + tl.arange(0, TILE_J) < T)[None, :], scores, float("-inf"))
        raised = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - raised[:, None])
        shrink = tl.exp2(highest - raised)
        total = total * shrink + tl.sum(weights, 1)
        no_values = tl.full([TILE_M, WIDTH], 0.0, tl.float32)
        part = product(rounded_weights(weights, PRECISION), v, no_values, PRECISION)
        acc = acc * shrink[:, None] + part * (v_scale / WEIGHT_SCALE)
        highest = raised

    # Nothing selected: zeros and -inf, without dividing by zero.
    divisor = tl.where(total > 0, total, 1.0)
    store_tile(out_ptr + at, stride, first, T, acc / divisor[:, None], SIZE, WIDTH, TILE_M, QUERY_RAGGED)
    lse = (highest + tl.log2(divisor)) * 0.6931471805599453
    place = first + tl.arange(0, TILE_M)
    tl.store(lse_ptr + row.to(tl.int64) * T + place, lse, mask=place < T)
