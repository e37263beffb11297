"""The Triton kernels of block-sparse attention, run by Triton's interpreter.

Tensors are small, since the interpreter takes milliseconds for a tile.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import (
    BackendUnavailable,
    BlockSelection,
    PastBlocks,
    RingSpan,
    block_sparse_attention,
    forward,
)
from ultraflash.kernels.quantization import quantize
from ultraflash.kernels.tiles import Tiles

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SMALL = Tiles(m=16, j=16, warps=1, stages=1)


def draw(blocks: int, tokens: int, size: int, dtype: torch.dtype, *, seed: int, heads: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, blocks, tokens, heads, size, generator=generator).to(dtype)


def random_selection(queries: int, keys: int, *, seed: int, heads: int = 2) -> BlockSelection:
    """About half of the pairs; the second query block of the first head selects nothing."""
    mask = torch.rand(1, heads, queries, keys, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0, 0, 1 % queries] = False
    mask[0, -1, 0] = True
    return BlockSelection.from_mask(mask)


def expected(q: Tensor, k: Tensor, v: Tensor, selection: BlockSelection, past: PastBlocks | None) -> Tensor:
    if past is not None:
        cached_k, cached_v = past.dense(torch.float32)
        k, v = (
            torch.cat([cached_k.float(), k.float()], dim=1),
            torch.cat([cached_v.float(), v.float()], dim=1),
        )
    return block_sparse_attention(q.float(), k.float(), v.float(), selection, backend="reference")


def expected_lse(q: Tensor, k: Tensor, selection: BlockSelection) -> Tensor:
    tokens = q.shape[2]
    q_BNID, k_BNJD = (x.float().flatten(1, 2).transpose(1, 2) for x in (q, k))
    mask = selection.to_mask().repeat_interleave(tokens, 2).repeat_interleave(tokens, 3)
    scores = (q_BNID @ k_BNJD.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return scores.logsumexp(-1).unflatten(-1, (-1, tokens))


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("tokens", "size"), [(64, 128), (128, 64)])
@pytest.mark.parametrize("cache", ["none", "floating", "int8"])
def test_the_kernel_equals_the_reference(dtype: torch.dtype, tokens: int, size: int, cache: str) -> None:
    q = draw(2, tokens, size, dtype, seed=0)
    k, v = draw(2, tokens, size, dtype, seed=1), draw(2, tokens, size, dtype, seed=2)
    past = None
    if cache != "none":
        past_k, past_v = draw(1, tokens, size, dtype, seed=3), draw(1, tokens, size, dtype, seed=4)
        past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v)
    if past is not None and cache == "int8":
        (past_k, k_scale), (past_v, v_scale) = quantize(past.k_BRTND), quantize(past.v_BRTND)
        past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v, k_scale_BRTN=k_scale, v_scale_BRTN=v_scale)
    selection = random_selection(2, 2 if past is None else 3, seed=5)
    out, _ = forward.attend(q, k, v, selection, past, interpret=True)
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        out.float(), expected(q, k, v, selection, past), atol=tolerance, rtol=tolerance
    )


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
@settings(max_examples=5)
@given(
    tokens=st.integers(1, 40),
    size=st.sampled_from([8, 12, 16, 20]),
    queries=st.integers(1, 2),
    keys=st.integers(1, 3),
    cached=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_any_shape_is_computed(
    dtype: torch.dtype,
    quantized: bool,
    tokens: int,
    size: int,
    queries: int,
    keys: int,
    cached: int,
    seed: int,
) -> None:
    q = draw(queries, tokens, size, dtype, seed=seed)
    k, v, past_k, past_v = (
        draw(n, tokens, size, dtype, seed=seed + 1 + i) for i, n in enumerate((keys, keys, cached, cached))
    )
    past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v)
    if quantized:
        (past_k, k_scale), (past_v, v_scale) = quantize(past_k), quantize(past_v)
        past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v, k_scale_BRTN=k_scale, v_scale_BRTN=v_scale)
    selection = random_selection(queries, keys + cached, seed=seed)
    out, lse = forward.attend(q, k, v, selection, past, interpret=True, tiles=SMALL)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        out.float(), expected(q, k, v, selection, past), atol=tolerance, rtol=tolerance
    )
    whole_k = torch.cat([past.dense(torch.float32)[0], k.float()], dim=1)
    torch.testing.assert_close(lse, expected_lse(q, whole_k, selection), atol=tolerance, rtol=tolerance)


@needs_triton
def test_a_query_block_that_selects_nothing_gets_zeros_and_an_infinite_negative_lse() -> None:
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in range(3))
    out, lse = forward.attend(q, k, v, random_selection(2, 2, seed=0), None, interpret=True)
    assert (out[0, 1, :, 0] == 0).all()
    assert (lse[0, 0, 1] == -torch.inf).all()
    assert out.isfinite().all()


@needs_triton
def test_blocks_are_read_inside_larger_buffers_and_what_lies_around_them_is_not() -> None:
    """The cache hands out views of buffers for all layers; block layout may come as a view as well."""
    buffer = torch.full((2, 3, 1, 4, 16, 2, 16), torch.nan)
    for i in range(2):
        buffer[i, 1, :, 1:3] = draw(2, 16, 16, torch.float32, seed=i)
    past = PastBlocks(k_BRTND=buffer[0, 1, :, 1:3], v_BRTND=buffer[1, 1, :, 1:3])
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in (2, 3, 4))
    selection = random_selection(2, 4, seed=1)
    out, _ = forward.attend(q, k, v, selection, past, interpret=True)
    torch.testing.assert_close(out, expected(q, k, v, selection, past), atol=1e-5, rtol=1e-5)


def turned(x_BCTND: Tensor, span: RingSpan, room: int) -> Tensor:
    """The blocks of `x_BCTND` at the places of a span in a ring, and what must not be read at the others."""
    worst = 127 if x_BCTND.dtype == torch.int8 else torch.nan
    ring = torch.full((x_BCTND.shape[0], room, *x_BCTND.shape[2:]), worst, dtype=x_BCTND.dtype)
    for i in range(span.count):
        ring[:, (span.first + i) % room] = x_BCTND[:, i]
    return ring


@pytest.mark.parametrize("backend", ["interpreter", "fp8-interpreter", "gather", "reference"])
@pytest.mark.parametrize(("first", "count"), [(0, 2), (1, 3), (3, 2), (4, 5), (2, 0)])
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
def test_a_ring_gives_bit_for_bit_what_its_blocks_give_in_order(
    backend: str, first: int, count: int, quantized: bool
) -> None:
    if "interpreter" in backend and not has_triton():
        pytest.skip("Triton is not installed")
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in range(3))
    cached: list[Tensor] = [draw(count, 16, 16, torch.float32, seed=i) for i in (3, 4)]
    if quantized:
        cached = [part for pair in zip(*map(quantize, cached), strict=True) for part in pair]
    names = ["cached_k_BCTND", "cached_v_BCTND", "cached_k_scale_BCTN", "cached_v_scale_BCTN"]
    span = RingSpan(first=first, count=count)
    selection = random_selection(2, 2 + count, seed=1)
    straight, ring = (
        block_sparse_attention(
            q, k, v, selection, **dict(zip(names, parts, strict=False)), cached_span=where, backend=backend
        )
        for parts, where in ((cached, None), ([turned(part, span, 5) for part in cached], span))
    )
    assert torch.equal(ring, straight)


@needs_triton
@pytest.mark.parametrize("first", [0, 3])
def test_gradients_reach_the_blocks_of_a_ring_that_count_and_no_others(first: int) -> None:
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in range(3))
    span, selection = RingSpan(first=first, count=2), random_selection(2, 4, seed=1)
    rings = [turned(draw(2, 16, 16, torch.float32, seed=i), span, 4).nan_to_num(0.0) for i in (3, 4)]

    def gradients(backend: str) -> tuple[Tensor, ...]:
        wanted = [x.clone().requires_grad_() for x in (q, k, v, *rings)]
        out = block_sparse_attention(
            *wanted[:3], selection,
            cached_k_BCTND=wanted[3], cached_v_BCTND=wanted[4], cached_span=span, backend=backend,
        )  # fmt: skip
        return torch.autograd.grad(out.square().sum(), wanted)

    made = gradients("interpreter")
    torch.testing.assert_close(made, gradients("reference"), atol=2e-5, rtol=1e-4)
    outside = [place for place in range(4) if (place - first) % 4 >= 2]
    assert all((ring[:, outside] == 0).all() for ring in made[3:])


@pytest.mark.parametrize(
    "span", [RingSpan(first=3, count=1), RingSpan(first=0, count=4), RingSpan(first=-1, count=1)]
)
def test_a_span_that_a_ring_does_not_have_is_refused(span: RingSpan) -> None:
    x = draw(3, 5, 8, torch.float32, seed=0)
    with pytest.raises(ValueError, match="a ring of 3 blocks"):
        block_sparse_attention(
            x, x, x, random_selection(3, 3 + span.count, seed=0),
            cached_k_BCTND=x, cached_v_BCTND=x, cached_span=span,
        )  # fmt: skip


@needs_triton
def test_room_behind_the_lists_is_not_read() -> None:
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in range(3))
    exact = random_selection(2, 2, seed=0)
    roomy = BlockSelection(
        row_ptr=exact.row_ptr,
        col_idx=torch.cat([exact.col_idx, torch.full((9,), 10**6, dtype=torch.int32)]),
        batch=1,
        heads=2,
        query_blocks=2,
        key_blocks=2,
    )
    assert torch.equal(roomy.to_mask(), exact.to_mask())
    made = [block_sparse_attention(q, k, v, s, backend="interpreter") for s in (exact, roomy)]
    assert torch.equal(*made)
    for wide, narrow in zip(roomy.transposed(), exact.transposed(), strict=True):
        assert torch.equal(wide[: len(narrow)], narrow)


@needs_triton
@pytest.mark.parametrize(("tokens", "size", "cached"), [(16, 16, 0), (20, 24, 2)])
def test_gradients_equal_those_of_the_reference(tokens: int, size: int, cached: int) -> None:
    q, k, v = (draw(2, tokens, size, torch.float32, seed=i).requires_grad_() for i in range(3))
    past = [draw(cached, tokens, size, torch.float32, seed=3 + i).requires_grad_() for i in range(2)]
    selection = random_selection(2, 2 + cached, seed=4)
    weight = draw(2, tokens, size, torch.float32, seed=9)

    def gradients(backend: str) -> tuple[Tensor, ...]:
        out = block_sparse_attention(
            q, k, v, selection, cached_k_BCTND=past[0], cached_v_BCTND=past[1], backend=backend
        )
        return torch.autograd.grad((out * weight).sum(), (q, k, v, *past))

    for made, wanted in zip(gradients("interpreter"), gradients("reference"), strict=True):
        torch.testing.assert_close(made, wanted, atol=2e-5, rtol=1e-4)


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@settings(max_examples=4)
@given(
    tokens=st.integers(1, 40),
    size=st.sampled_from([8, 12, 20]),
    queries=st.integers(1, 3),
    keys=st.integers(1, 2),
    cached=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_gradients_of_any_shape_equal_those_of_the_reference(
    dtype: torch.dtype, tokens: int, size: int, queries: int, keys: int, cached: int, seed: int
) -> None:
    counts = (queries, keys, keys, cached, cached)
    inputs = [draw(n, tokens, size, dtype, seed=seed + i).requires_grad_() for i, n in enumerate(counts)]
    selection = random_selection(queries, keys + cached, seed=seed)

    def gradients(backend: str, kind: torch.dtype) -> tuple[Tensor, ...]:
        q, k, v, past_k, past_v = (x.to(kind) for x in inputs)
        out = block_sparse_attention(
            q, k, v, selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v, backend=backend
        )
        return torch.autograd.grad(out.float().square().sum(), inputs)

    tolerance = 5 * TOLERANCE[dtype]
    for made, wanted in zip(
        gradients("interpreter", dtype), gradients("reference", torch.float32), strict=True
    ):
        torch.testing.assert_close(made, wanted, atol=tolerance, rtol=tolerance)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_in_16_bits_are_close_to_those_in_32(dtype: torch.dtype) -> None:
    q, k, v = (draw(2, 64, 64, dtype, seed=i).requires_grad_() for i in range(3))
    selection = random_selection(2, 2, seed=4)

    def gradients(backend: str, kind: torch.dtype) -> tuple[Tensor, ...]:
        out = block_sparse_attention(q.to(kind), k.to(kind), v.to(kind), selection, backend=backend)
        return torch.autograd.grad(out.float().square().sum(), (q, k, v))

    for made, wanted in zip(
        gradients("interpreter", dtype), gradients("reference", torch.float32), strict=True
    ):
        torch.testing.assert_close(made, wanted, atol=5 * TOLERANCE[dtype], rtol=5 * TOLERANCE[dtype])


@needs_triton
def test_a_gradient_over_8_bit_keys_is_refused() -> None:
    q, k, v = (draw(2, 16, 16, torch.float32, seed=i) for i in range(3))
    cached, scale = quantize(k)
    with pytest.raises(ValueError, match="8-bit"):
        block_sparse_attention(
            q.requires_grad_(), k, v, random_selection(2, 4, seed=0),
            cached_k_BCTND=cached, cached_v_BCTND=cached, cached_k_scale_BCTN=scale, cached_v_scale_BCTN=scale,
            backend="interpreter",
        )  # fmt: skip


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_every_backend_takes_8_bit_keys(backend: str) -> None:
    q, k, v = (draw(2, 5, 8, torch.float32, seed=i) for i in range(3))
    (past_k, k_scale), (past_v, v_scale) = quantize(k), quantize(v)
    selection = random_selection(2, 4, seed=0)
    out = block_sparse_attention(
        q, k, v, selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v,
        cached_k_scale_BCTN=k_scale, cached_v_scale_BCTN=v_scale, backend=backend,
    )  # fmt: skip
    past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v, k_scale_BRTN=k_scale, v_scale_BRTN=v_scale)
    torch.testing.assert_close(out, expected(q, k, v, selection, past), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["gather", "reference", "interpreter"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cached_keys_may_be_of_another_type_than_queries(backend: str, dtype: torch.dtype) -> None:
    if backend == "interpreter" and not has_triton():
        pytest.skip("Triton is not installed")
    q, k, v = (draw(2, 5, 8, dtype, seed=i) for i in range(3))
    past_k, past_v = (draw(2, 5, 8, torch.bfloat16, seed=i) for i in (3, 4))
    selection = random_selection(2, 4, seed=0)
    out = block_sparse_attention(
        q, k, v, selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v, backend=backend
    )
    past = PastBlocks(k_BRTND=past_k, v_BRTND=past_v)
    tolerance = TOLERANCE[dtype]
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.float(), expected(q, k, v, selection, past), atol=tolerance, rtol=tolerance
    )


def test_8_bit_keys_without_scales_are_refused() -> None:
    x = draw(2, 5, 8, torch.float32, seed=0)
    with pytest.raises(ValueError, match="scales"):
        block_sparse_attention(
            x, x, x, random_selection(2, 4, seed=0),
            cached_k_BCTND=x.to(torch.int8), cached_v_BCTND=x.to(torch.int8),
        )  # fmt: skip


def test_the_compiled_kernel_is_refused_off_the_gpu_and_what_works_is_named() -> None:
    x = draw(2, 5, 8, torch.float32, seed=0)
    with pytest.raises(BackendUnavailable, match=r"choose gather, reference") as refused:
        block_sparse_attention(x, x, x, random_selection(2, 2, seed=0), backend="triton")
    assert refused.value.code == "backend_unavailable"
