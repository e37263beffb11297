"""The Triton kernel of dense attention, run by Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.attention import BackendUnavailable, dense_attention, forward
from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.quantization import dequantize, quantize
from ultraflash.kernels.tiles import Tiles
from ultraflash.models.ring_cache import RingCache

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def draw(tokens: int, size: int, dtype: torch.dtype = torch.float32, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, 2, size, generator=generator).to(dtype)


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
def test_the_kernel_equals_sdpa(dtype: torch.dtype, size: int, quantized: bool) -> None:
    q, k, v = draw(70, size, dtype, seed=0), draw(100, size, dtype, seed=1), draw(100, size, dtype, seed=2)
    scales = None
    wide_k, wide_v = k.float(), v.float()
    if quantized:
        (k, k_scale), (v, v_scale) = quantize(k), quantize(v)
        scales = (k_scale, v_scale)
        wide_k, wide_v = dequantize(k, k_scale, torch.float32), dequantize(v, v_scale, torch.float32)
    out, _ = forward.attend(q, k, v, scales, interpret=True)
    assert out.dtype == dtype
    wanted = dense_attention(q.float(), wide_k, wide_v)
    torch.testing.assert_close(out.float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
@settings(max_examples=5)
@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    size=st.sampled_from([8, 12, 16, 20]),
    seed=st.integers(0, 99),
)
def test_any_shape_is_computed(
    dtype: torch.dtype, quantized: bool, queries: int, keys: int, size: int, seed: int
) -> None:
    q, k, v = (draw(n, size, dtype, seed=seed + i) for i, n in enumerate((queries, keys, keys)))
    scales, wide_k, wide_v = None, k.float(), v.float()
    if quantized:
        (k, k_scale), (v, v_scale) = quantize(k), quantize(v)
        scales = (k_scale, v_scale)
        wide_k, wide_v = dequantize(k, k_scale, torch.float32), dequantize(v, v_scale, torch.float32)
    small = Tiles(m=16, j=16, warps=1, stages=1)
    out, lse = forward.attend(q, k, v, scales, interpret=True, tiles=small)
    tolerance = TOLERANCE[dtype]
    wanted = dense_attention(q.float(), wide_k, wide_v)
    torch.testing.assert_close(out.float(), wanted, atol=tolerance, rtol=tolerance)
    scores = torch.einsum("blnd,bmnd->bnlm", q.float(), wide_k) / size**0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=tolerance, rtol=tolerance)


@needs_triton
def test_a_ring_cache_that_has_wrapped_around_is_read_in_place() -> None:
    cache = RingCache(
        layers=2, batch=1, frames=4, sink_frames=1, frame_tokens=5, heads=2, head_dim=16,
        dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    for block in range(3):
        cache.append(1, draw(10, 16, seed=block), draw(10, 16, seed=10 + block))
        cache.commit()
    keys, values = cache.view(1)
    assert not keys.is_contiguous() or keys.storage_offset() > 0
    q = draw(10, 16, seed=20)
    out = dense_attention(q, keys, values, backend="interpreter")
    torch.testing.assert_close(out, dense_attention(q, keys, values), atol=1e-5, rtol=1e-5)


def test_8_bit_keys_are_widened_where_no_kernel_reads_them() -> None:
    q, k, v = draw(3, 8, seed=0), draw(5, 8, seed=1), draw(5, 8, seed=2)
    (narrow_k, k_scale), (narrow_v, v_scale) = quantize(k), quantize(v)
    out = dense_attention(q, narrow_k, narrow_v, k_scale_BMN=k_scale, v_scale_BMN=v_scale)
    torch.testing.assert_close(out, dense_attention(q, k, v), atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("backend", ["sdpa", "chunked", "interpreter"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_keys_may_be_of_another_type_than_queries(backend: str, dtype: torch.dtype) -> None:
    if backend == "interpreter" and not has_triton():
        pytest.skip("Triton is not installed")
    q, k, v = (
        draw(3, 8, dtype, seed=0),
        draw(5, 8, torch.bfloat16, seed=1),
        draw(5, 8, torch.bfloat16, seed=2),
    )
    out = dense_attention(q, k, v, backend=backend)
    assert out.dtype == dtype
    wanted = dense_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(out.float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_what_cannot_be_computed_is_refused() -> None:
    q = draw(3, 8, seed=0)
    with pytest.raises(BackendUnavailable, match="choose sdpa"):
        dense_attention(q, q, q, backend="triton")
    with pytest.raises(ValueError, match="together"):
        dense_attention(q, q, q, k_scale_BMN=q[..., 0])


@needs_triton
def test_a_gradient_is_refused_where_there_is_none() -> None:
    q = draw(3, 8, seed=0)
    with pytest.raises(ValueError, match="no gradient"):
        dense_attention(q.requires_grad_(), q, q, backend="interpreter")
