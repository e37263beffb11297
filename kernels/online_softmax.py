"""Device code that the attention kernels share: one tile of keys after another, in a single pass over memory.

Only kernels import this module, since it needs Triton. Shapes: M queries of a tile, J keys of a tile, D head size
filled up to WIDTH, a power of two. Scores are kept in base 2, since exp2 is what the hardware has.
"""

import triton
import triton.language as tl


@triton.jit
def load_tile(
    base,
    stride_token,
    first,
    tokens,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Tokens first .. first + ROWS of one head as (ROWS, WIDTH); zeros past `tokens` and past SIZE."""
    token = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    at = base + token[:, None].to(tl.int64) * stride_token + column[None, :]
    if RAGGED:
        tile = tl.load(at, mask=(token[:, None] < tokens) & (column[None, :] < SIZE), other=0.0)
    elif SIZE != WIDTH:
        tile = tl.load(at, mask=column[None, :] < SIZE, other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def store_tile(
    base,
    stride_token,
    first,
    tokens,
    tile,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """The inverse of `load_tile`."""
    token = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    at = base + token[:, None].to(tl.int64) * stride_token + column[None, :]
    value = tile.to(base.dtype.element_ty)
    if RAGGED:
        tl.store(at, value, mask=(token[:, None] < tokens) & (column[None, :] < SIZE))
    elif SIZE != WIDTH:
        tl.store(at, value, mask=column[None, :] < SIZE)
    else:
        tl.store(at, value)


@triton.jit
def load_row(base, stride_token, first, tokens, ROWS: tl.constexpr, RAGGED: tl.constexpr):
    """One number per token: (ROWS,), zeros past `tokens`."""
    token = first + tl.arange(0, ROWS)
    at = base + token.to(tl.int64) * stride_token
    if RAGGED:
        row = tl.load(at, mask=token < tokens, other=0.0)
    else:
        row = tl.load(at)
    return row


@triton.jit
def product(left, right, acc, PRECISION: tl.constexpr):
    """acc + left @ right in float32. PRECISION "float32" computes in float32 whatever comes in."""
    if PRECISION == "float32":
        # The interpreter multiplies the raw bits of bfloat16 tiles.
        acc = tl.dot(left.to(tl.float32), right.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc


@triton.jit
def softmax_step(acc, highest, total, scores, v, v_scale, PRECISION: tl.constexpr, QUANTIZED: tl.constexpr):
    """Take one tile of scores (M, J) and values (J, WIDTH) into the running sums.

    acc (M, WIDTH) and total (M,) are relative to `highest` (M,), the largest score so far. At least one score of
    every row that counts must be finite.
    """
    raised = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - raised[:, None])
    shrink = tl.exp2(highest - raised)
    total = total * shrink + tl.sum(weights, 1)
    acc = acc * shrink[:, None]
    if QUANTIZED:
        weights = weights * v_scale[None, :]
    acc = product(weights.to(v.dtype), v, acc, PRECISION)
    return acc, raised, total
