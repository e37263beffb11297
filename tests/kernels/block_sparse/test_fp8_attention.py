"""Block-sparse attention in 8-bit floating point, the kernel of which Triton's interpreter runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import (
    BackendUnavailable,
    BlockSelection,
    block_sparse_attention,
    fp8,
    reference,
)
from ultraflash.kernels.quantization import dequantize_blocks, quantize_blocks
from ultraflash.kernels.tiles import Tiles

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

SMALL = Tiles(m=16, j=16, warps=1, stages=1)


def draw(blocks: int, tokens: int, size: int, *, seed: int, loudest: float = 1.0) -> Tensor:
    """Two heads. With a `loudest` above 1 some channels are louder, as in queries and keys of trained networks."""
    generator = torch.Generator().manual_seed(seed)
    channel = torch.randn(2, size, generator=generator).exp().clamp(max=loudest)
    return torch.randn(1, blocks, tokens, 2, size, generator=generator) * channel


def selection(queries: int, keys: int, *, seed: int) -> BlockSelection:
    """About half of the pairs; the second query block of the first head selects nothing."""
    mask = torch.rand(1, 2, queries, keys, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0, 0, 1 % queries] = False
    mask[0, -1, 0] = True
    return BlockSelection.from_mask(mask)


def relative_error(made: Tensor, wanted: Tensor) -> float:
    return ((made.float() - wanted).norm() / wanted.norm()).item()


def test_rounding_to_8_bits_keeps_every_block_within_its_range() -> None:
    x = draw(3, 4, 8, seed=0) * torch.tensor([1e-6, 1.0, 1e4])[None, :, None, None, None]
    x[0, 0, :, 1] = 0
    levels, scale = quantize_blocks(x)
    assert levels.dtype == torch.float8_e4m3fn
    assert scale.shape == (1, 3, 2)
    back = dequantize_blocks(levels, scale, torch.float32)
    largest = x.abs().amax(dim=(2, 4), keepdim=True)
    # Three bits of mantissa, and where numbers become too small for the exponent, steps of 2^-9 of 448.
    assert ((back - x).abs() <= x.abs() / 16 + largest / 448 / 512).all()


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_result_is_close_to_float32(dtype: torch.dtype) -> None:
    q, k, v = (draw(n, 32, 64, seed=n + i).to(dtype) for i, n in enumerate((2, 3, 3)))
    chosen = selection(2, 3, seed=1)
    out = block_sparse_attention(q, k, v, chosen, backend="fp8-interpreter")
    wanted = reference.attend(q.float(), k.float(), v.float(), chosen)
    assert out.dtype == dtype
    assert (out[0, 1, :, 0] == 0).all()
    assert relative_error(out, wanted) < 0.06


@needs_triton
@pytest.mark.parametrize(("tokens", "size"), [(64, 64), (32, 128)])
@pytest.mark.parametrize("loudest", [1.0, 4.0])
def test_most_of_the_error_is_that_of_rounding_what_comes_in(tokens: int, size: int, loudest: float) -> None:
    inputs = [draw(n, tokens, size, seed=n + i, loudest=loudest) for i, n in enumerate((1, 2, 2))]
    everything = BlockSelection.from_mask(torch.ones(1, 2, 1, 2, dtype=torch.bool))
    rounded = [dequantize_blocks(*quantize_blocks(x), torch.float32) for x in inputs]
    out = block_sparse_attention(*inputs, everything, backend="fp8-interpreter")
    assert relative_error(out, reference.attend(*rounded, everything)) < 0.03


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=5)
@given(
    tokens=st.integers(1, 40),
    size=st.sampled_from([8, 12, 16]),
    keys=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_of_numbers_that_8_bits_hold_only_the_weights_are_rounded(
    dtype: torch.dtype, tokens: int, size: int, keys: int, seed: int
) -> None:
    """What is left is the error of the weights, 1/16 at most, and lse is exact, which no weight enters rounded."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randint(-3, 4, (1, n, tokens, 2, size), generator=generator).float() for n in (2, keys, keys)
    )
    for x in (q, k, v):  # so that scales are powers of two
        x[:, :, 0, :, 0] = 3.5
    chosen = selection(2, keys, seed=seed)
    out, lse = fp8.attend(*(x.to(dtype) for x in (q, k, v)), chosen, None, interpret=True, tiles=SMALL)
    assert out.dtype == dtype
    assert (out.float() - reference.attend(q, k, v, chosen)).abs().max() <= 3.5 / 16 * (
        1 + torch.finfo(dtype).eps
    )
    mask = chosen.to_mask().repeat_interleave(tokens, 2).repeat_interleave(tokens, 3)
    scores = torch.einsum("bqtnd,bksnd->bnqtks", q, k).flatten(4).flatten(2, 3) / size**0.5
    wanted = scores.masked_fill(~mask, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(lse.flatten(2), wanted, atol=1e-4, rtol=1e-4)


@needs_triton
def test_cached_blocks_are_seen_before_new_ones() -> None:
    q, k, v, past_k, past_v = (draw(2, 16, 16, seed=i) for i in range(5))
    chosen = selection(2, 4, seed=0)
    apart = block_sparse_attention(
        q, k, v, chosen, cached_k_BCTND=past_k, cached_v_BCTND=past_v, backend="fp8-interpreter"
    )
    joint = [torch.cat([old, new], dim=1) for old, new in ((past_k, k), (past_v, v))]
    assert torch.equal(apart, block_sparse_attention(q, *joint, chosen, backend="fp8-interpreter"))


@needs_triton
def test_it_is_for_gpus_alone_and_has_no_gradient() -> None:
    x = draw(2, 4, 8, seed=0)
    with pytest.raises(BackendUnavailable, match="or 'fp8-interpreter'"):
        block_sparse_attention(x, x, x, selection(2, 2, seed=0), backend="fp8")
    with pytest.raises(ValueError, match="no gradient"):
        block_sparse_attention(x.requires_grad_(), x, x, selection(2, 2, seed=0), backend="fp8-interpreter")
