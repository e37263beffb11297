"""Triton kernel of dense attention over a cache, read where it lies.

Shape legend: B batch, L query tokens, M key tokens, N heads; I queries and J keys of a tile.

The order of keys has no meaning to attention, so a ring cache of sink and window is a run of tokens like any other.
"""

import triton
import triton.language as tl

from ultraflash.kernels.online_softmax import load_row, load_tile, product, softmax_step, store_tile


@triton.jit
def attend_dense(
    q_ptr,
    k_ptr,
    v_ptr,
    k_scale_ptr,
    v_scale_ptr,
    out_ptr,
    lse_ptr,
    q_batch,
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    scale_batch,
    heads,
    queries,
    keys,
    score_scale,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_J: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    """One tile of queries of one head; programs are (tiles of queries, B * N).

    Keys and values share strides and a type, floating or int8 with float32 scales (B, M, N), contiguous but for B. out
    is contiguous (B, L, N, SIZE), lse (B, N, L) float32 in natural logarithm. `score_scale` is log2(e) / sqrt(SIZE).
    """
    first = tl.program_id(0) * TILE_M
    pair = tl.program_id(1)
    head = (pair % heads).to(tl.int64)
    batch = (pair // heads).to(tl.int64)
    q_base = q_ptr + batch * q_batch + head * q_head
    q = load_tile(q_base, q_token, first, queries, SIZE, WIDTH, TILE_M, True)
    key_at = batch * k_batch + head * k_head
    scale_at = batch * scale_batch + head
    acc = tl.full([TILE_M, WIDTH], 0.0, tl.float32)
    highest = tl.full([TILE_M], float("-inf"), tl.float32)
    total = tl.full([TILE_M], 0.0, tl.float32)
    nothing = tl.full([TILE_M, TILE_J], 0.0, tl.float32)
    for token in range(0, keys, TILE_J):
        k = load_tile(k_ptr + key_at, k_token, token, keys, SIZE, WIDTH, TILE_J, True)
        v = load_tile(v_ptr + key_at, k_token, token, keys, SIZE, WIDTH, TILE_J, True)
        if QUANTIZED:  # by way of float32: the interpreter takes integers for the bits of bfloat16
            k, v = k.to(tl.float32).to(q.dtype), v.to(tl.float32).to(q.dtype)
        else:  # a cache may be kept in fewer bits than queries have
            k, v = k.to(q.dtype), v.to(q.dtype)
        scores = product(q, tl.trans(k), nothing, PRECISION) * score_scale
        v_scale = score_scale
        if QUANTIZED:
            scores *= load_row(k_scale_ptr + scale_at, heads, token, keys, TILE_J, True)[None, :]
            v_scale = load_row(v_scale_ptr + scale_at, heads, token, keys, TILE_J, True)
        scores = tl.where((token + tl.arange(0, TILE_J) < keys)[None, :], scores, float("-inf"))
        acc, highest, total = softmax_step(acc, highest, total, scores, v, v_scale, PRECISION, QUANTIZED)
    out_base = out_ptr + (batch * queries * heads + head) * SIZE
    store_tile(out_base, heads * SIZE, first, queries, acc / total[:, None], SIZE, WIDTH, TILE_M, True)
    place = first + tl.arange(0, TILE_M)
    lse = (highest + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + pair.to(tl.int64) * queries + place, lse, mask=place < queries)
