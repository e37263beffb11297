"""The Triton kernels that choose key blocks, run by Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import (
    BackendUnavailable,
    BlockGrid,
    RingSpan,
    SelectionRule,
    select_blocks,
    selection_mask,
)
from ultraflash.kernels.quantization import dequantize, quantize

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")


def exact(grid: BlockGrid, blocks: int, *, seed: int, heads: int = 1, batch: int = 1) -> Tensor:
    """Blocks whose means and scores are exact in float32 in any order of adding up, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, blocks, 1, heads, 4)
    return torch.randint(-1, 2, shape, generator=generator).float().expand(-1, -1, grid.block_tokens, -1, -1)


def chosen(
    q: Tensor,
    k: Tensor,
    grid: BlockGrid,
    rule: SelectionRule,
    past: Tensor | None,
    scale: Tensor | None = None,
) -> Tensor:
    made = select_blocks(
        q, k, grid, rule, cached_k_BCTND=past, cached_k_scale_BCTN=scale, backend="interpreter"
    )
    rows = made.row_ptr.tolist()
    for start, stop in zip(rows, rows[1:], strict=False):
        listed = made.col_idx[start:stop].tolist()
        assert listed == sorted(set(listed))
    return made.to_mask()


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=8)
@given(
    frames=st.integers(1, 2),
    rows=st.integers(1, 5),
    cols=st.integers(1, 5),
    cached=st.integers(0, 1),
    local_range=st.integers(1, 5),
    chunk_frames=st.integers(1, 2),
    ratio=st.sampled_from([-1.0, 0.2, 0.7, 9.0]),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_choice_equals_the_reference_ties_included(
    dtype: torch.dtype,
    frames: int,
    rows: int,
    cols: int,
    cached: int,
    local_range: int,
    chunk_frames: int,
    ratio: float,
    causal: bool,
    seed: int,
) -> None:
    grid = BlockGrid(frames=frames, rows=rows, cols=cols, block=(1, 2, 2))
    rule = SelectionRule(chunk_frames=chunk_frames, local_range=local_range, ratio=ratio, causal=causal)
    q, k, past_k = (
        exact(grid, n, seed=seed + i).to(dtype)
        for i, n in enumerate((grid.n_blocks, grid.n_blocks, cached * grid.spatial_blocks))
    )
    past = past_k if cached else None
    assert torch.equal(chosen(q, k, grid, rule, past), selection_mask(q, k, grid, rule, cached_k_BCTND=past))


@needs_triton
@pytest.mark.parametrize("cached", [0, 1])
def test_where_all_weights_tie_all_that_is_allowed_and_ties_is_kept(cached: int) -> None:
    grid = BlockGrid(frames=2, rows=6, cols=6, block=(1, 2, 2))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.3)
    q = torch.zeros(1, grid.n_blocks, 4, 1, 4)
    past = torch.zeros(1, grid.spatial_blocks, 4, 1, 4) if cached else None
    wanted = selection_mask(q, q, grid, rule, cached_k_BCTND=past)
    assert torch.equal(chosen(q, q, grid, rule, past), wanted)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_choice_in_each_dtype_equals_the_reference(dtype: torch.dtype) -> None:
    grid = BlockGrid(frames=1, rows=9, cols=10, block=(1, 4, 4))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    generator = torch.Generator().manual_seed(3)
    q, k, past = (
        torch.randn(1, grid.n_blocks, 1, 2, 64, generator=generator).expand(-1, -1, 16, -1, -1).to(dtype)
        for _ in range(3)
    )
    wanted = selection_mask(q, k, grid, rule, cached_k_BCTND=past)
    assert torch.equal(chosen(q, k, grid, rule, past), wanted)


@needs_triton
def test_8_bit_keys_are_chosen_as_what_they_stand_for() -> None:
    grid = BlockGrid(frames=1, rows=6, cols=6, block=(1, 2, 2))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    generator = torch.Generator().manual_seed(0)
    q, k, past = (torch.randn(1, grid.n_blocks, 4, 2, 8, generator=generator) for _ in range(3))
    narrow, scale = quantize(past)
    wide = dequantize(narrow, scale, torch.float32)
    wanted = selection_mask(q, k, grid, rule, cached_k_BCTND=wide)
    assert torch.equal(chosen(q, k, grid, rule, narrow, scale), wanted)


@pytest.mark.parametrize("backend", ["reference", "interpreter"])
@pytest.mark.parametrize("quantized", [False, True], ids=["floating", "int8"])
@pytest.mark.parametrize("first", [0, 9, 18])
def test_a_ring_of_keys_is_chosen_from_as_if_it_lay_in_order(
    backend: str, quantized: bool, first: int
) -> None:
    if backend == "interpreter" and not has_triton():
        pytest.skip("Triton is not installed")
    grid = BlockGrid(frames=1, rows=6, cols=6, block=(1, 2, 2))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    q, k, past = (torch.randn(1, n, 4, 2, 8, generator=torch.Generator().manual_seed(n)) for n in (9, 9, 18))
    straight: tuple[Tensor, Tensor | None] = (past, None)
    if quantized:
        straight = quantize(past)
    order = [(place - first) % 27 for place in range(27)]  # which block a place holds; 18 and more are none
    ring = [
        None if x is None else torch.stack([x[:, i] if i < 18 else x[:, 0] + 1 for i in order], dim=1)
        for x in straight
    ]
    made, wanted = (
        select_blocks(
            q, k, grid, rule,
            cached_k_BCTND=keys, cached_k_scale_BCTN=scale, cached_span=span, backend=backend,
        ).to_mask()
        for (keys, scale), span in ((ring, RingSpan(first=first, count=18)), (straight, None))
    )  # fmt: skip
    assert torch.equal(made, wanted)


@needs_triton
def test_the_backend_is_chosen_by_name() -> None:
    grid = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    q, k = exact(grid, 4, seed=0), exact(grid, 4, seed=1)
    made = [select_blocks(q, k, grid, rule, backend=name).to_mask() for name in ("reference", "interpreter")]
    assert torch.equal(*made)


def test_the_compiled_kernels_are_refused_off_the_gpu() -> None:
    grid = BlockGrid(frames=1, rows=2, cols=2, block=(1, 2, 2))
    x = torch.zeros(1, 1, 4, 1, 4)
    with pytest.raises(BackendUnavailable, match="choose reference"):
        select_blocks(x, x, grid, SelectionRule(chunk_frames=1, local_range=1, ratio=1.0), backend="triton")
