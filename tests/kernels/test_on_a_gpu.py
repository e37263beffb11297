"""The kernels as they are compiled for the GPU at hand: ``pytest -m gpu``."""

import pytest
import torch
from torch import Tensor

from ultraflash.kernels import residual_norm
from ultraflash.kernels.attention import dense_attention
from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import (
    BlockGrid,
    RingSpan,
    SelectionRule,
    block_sparse_attention,
    fp8,
    select_blocks,
    selection_mask,
)
from ultraflash.kernels.heads import to_heads
from ultraflash.kernels.pixels import PixelLayout, pack
from ultraflash.kernels.quantization import dequantize, quantize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
    pytest.mark.skipif(not has_triton(), reason="Triton is not installed"),
]

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
RULE = SelectionRule(chunk_frames=2, local_range=3, ratio=0.3)


def draw(grid: BlockGrid, size: int, dtype: torch.dtype, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, grid.n_blocks, grid.block_tokens, 2, size)
    return torch.randn(shape, generator=generator).to("cuda", dtype)


def grid_of(tokens: int) -> BlockGrid:
    return BlockGrid(frames=2, rows=30, cols=26, block=(tokens // 64, 8, 8))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("tokens", [64, 128])
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
def test_sparse_attention_equals_the_reference(
    dtype: torch.dtype, size: int, tokens: int, quantized: bool
) -> None:
    grid = grid_of(tokens)
    q, k, v, past_k, past_v = (draw(grid, size, dtype, seed=seed) for seed in range(5))
    scales: dict[str, Tensor] = {}
    wide = past_k, past_v
    if quantized:
        (past_k, k_scale), (past_v, v_scale) = quantize(past_k), quantize(past_v)
        scales = {"cached_k_scale_BCTN": k_scale, "cached_v_scale_BCTN": v_scale}
        wide = dequantize(past_k, k_scale, dtype), dequantize(past_v, v_scale, dtype)
    selection = select_blocks(q, k, grid, RULE, cached_k_BCTND=wide[0], backend="reference")
    made = block_sparse_attention(
        q, k, v, selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v, **scales, backend="triton"
    )
    wanted = block_sparse_attention(
        *(x.float() for x in (q, k, v)),
        selection,
        cached_k_BCTND=wide[0].float(),
        cached_v_BCTND=wide[1].float(),
        backend="gather",
    )
    torch.testing.assert_close(made.float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
def test_a_ring_gives_what_its_blocks_give_in_order(quantized: bool) -> None:
    grid = grid_of(64)
    q, k, v, past_k, past_v = (draw(grid, 64, torch.bfloat16, seed=seed) for seed in range(5))
    selection = select_blocks(q, k, grid, RULE, cached_k_BCTND=past_k, backend="reference")
    cached: list[Tensor] = [past_k, past_v]
    if quantized:
        cached = [part for pair in zip(*map(quantize, cached), strict=True) for part in pair]
    names = ["cached_k_BCTND", "cached_v_BCTND", "cached_k_scale_BCTN", "cached_v_scale_BCTN"]
    span = RingSpan(first=7, count=past_k.shape[1])
    straight, ring = (
        block_sparse_attention(
            q, k, v, selection, **dict(zip(names, parts, strict=False)), cached_span=where, backend="triton"
        )
        for parts, where in ((cached, None), ([part.roll(7, dims=1) for part in cached], span))
    )
    tolerance = TOLERANCE[torch.bfloat16]
    torch.testing.assert_close(ring, straight, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [64, 128])
def test_gradients_equal_those_of_the_reference(dtype: torch.dtype, size: int) -> None:
    grid = grid_of(64)
    q, k, v, past_k, past_v = (draw(grid, size, dtype, seed=seed).requires_grad_() for seed in range(5))
    selection = select_blocks(q, k, grid, RULE, cached_k_BCTND=past_k, backend="reference")

    def gradients(backend: str, kind: torch.dtype) -> tuple[Tensor, ...]:
        out = block_sparse_attention(
            *(x.to(kind) for x in (q, k, v)),
            selection,
            cached_k_BCTND=past_k.to(kind),
            cached_v_BCTND=past_v.to(kind),
            backend=backend,
        )
        return torch.autograd.grad(out.float().square().sum(), (q, k, v, past_k, past_v))

    tolerance = 5 * TOLERANCE[dtype]
    for made, wanted in zip(gradients("triton", dtype), gradients("gather", torch.float32), strict=True):
        torch.testing.assert_close(made, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [64, 128])
def test_dense_attention_equals_sdpa(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, size, generator=generator).to("cuda", dtype) for n in (300, 1001, 1001))
    wanted = dense_attention(q.float(), k.float(), v.float())
    made = dense_attention(q, k, v, backend="triton")
    torch.testing.assert_close(made.float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_the_choice_equals_the_reference_ties_included() -> None:
    grid = grid_of(64)
    generator = torch.Generator().manual_seed(0)
    q, k, past = (
        torch.randint(-1, 2, (1, grid.n_blocks, 1, 2, 64), generator=generator)
        .float()
        .expand(-1, -1, 64, -1, -1)
        .cuda()
        for _ in range(3)
    )
    made = select_blocks(q, k, grid, RULE, cached_k_BCTND=past, backend="triton")
    assert torch.equal(made.to_mask(), selection_mask(q, k, grid, RULE, cached_k_BCTND=past))


def test_choosing_and_attending_does_not_wait_for_the_gpu() -> None:
    grid = grid_of(64)
    q, k, v = (draw(grid, 64, torch.bfloat16, seed=seed) for seed in range(3))
    for strict in (False, True):  # the first time round compiles, which may wait
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            selection = select_blocks(q, k, grid, RULE, backend="triton")
            block_sparse_attention(q, k, v, selection, backend="triton")
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_gated_sum_and_modulated_norm_equal_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, update = (torch.randn(2, 300, 1536, generator=generator).cuda() for _ in range(2))
    gate, factor, offset = torch.randn(1, 3, 3, 1536, generator=generator).cuda().unsqueeze(3).unbind(2)
    made, wanted = (
        residual_norm.add_normed(
            x, update.to(dtype), gate, factor, offset, eps=1e-6, dtype=dtype, backend=backend
        )
        for backend in ("triton", "reference")
    )
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(made[0], wanted[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made[1], wanted[1], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [192, 1536])
def test_normed_and_rotated_heads_in_block_layout_equal_the_reference(dtype: torch.dtype, width: int) -> None:
    grid = grid_of(128)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, grid.tokens, width, generator=generator).to("cuda", dtype)
    weight = torch.randn(width, generator=generator).cuda()
    rope = torch.randn(2, grid.tokens, 1, 32, generator=generator).cuda()
    made, wanted = (
        to_heads(x, width // 64, weight_E=weight, eps=1e-6, rope=rope, grid=grid, backend=backend)
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(made, wanted, atol=2 * TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["rgb", "yuv420p", "nv12"])
def test_packed_pixels_equal_the_reference(layout: PixelLayout) -> None:
    pixels = torch.rand(3, 3, 96, 160, generator=torch.Generator().manual_seed(0)).cuda().permute(0, 2, 3, 1)
    made, wanted = (
        pack(pixels.bfloat16() - 0.5, layout=layout, offset=0.5, backend=backend)
        for backend in ("triton", "reference")
    )
    assert (made.int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("tokens", [64, 128])
def test_attention_in_8_bit_floating_point_is_close_to_float32(size: int, tokens: int) -> None:
    if torch.cuda.get_device_capability() < fp8.CAPABILITY:
        pytest.skip("its tensor cores don't take e4m3")
    grid = grid_of(tokens)
    q, k, v = (draw(grid, size, torch.bfloat16, seed=seed) for seed in range(3))
    selection = select_blocks(q, k, grid, RULE, backend="reference")
    made = block_sparse_attention(q, k, v, selection, backend="fp8")
    wanted = block_sparse_attention(*(x.float() for x in (q, k, v)), selection, backend="gather")
    assert ((made.float() - wanted).norm() / wanted.norm()).item() < 0.06
