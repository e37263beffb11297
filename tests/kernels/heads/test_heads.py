"""Norm, rotation and block layout of heads, the kernel of which Triton's interpreter runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable, has_triton
from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.kernels.heads import apply_rope, forward, reference, to_heads
from ultraflash.kernels.tiles import Tiles

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}
"""The reference rounds between norm and rotation, the kernel at the end alone."""


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_reference_is_what_it_says() -> None:
    x, weight, angle = draw(1, 3, 8, seed=0), draw(8, seed=1), draw(3, 1, 2, seed=2)
    made = to_heads(x, 2, weight_E=weight, eps=1e-6, rope=torch.stack((angle.cos(), angle.sin())))
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    even, odd = normed.reshape(1, 3, 2, 2, 2).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    wanted = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    torch.testing.assert_close(made, wanted.flatten(3))


def test_a_rotation_is_the_same_compiled() -> None:
    x, angle = draw(2, 5, 3, 8, seed=0), draw(5, 1, 4, seed=1)
    table = torch.stack((angle.cos(), angle.sin()))
    compiled = torch.compile(apply_rope, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, table), apply_rope(x, table))


def test_a_rotation_takes_any_strides() -> None:
    wide, angle = draw(2, 5, 3, 17, seed=0), draw(5, 1, 4, seed=1)
    table = torch.stack((angle.cos(), angle.sin()))
    odd = wide[..., 1::2]
    torch.testing.assert_close(apply_rope(odd, table), apply_rope(odd.clone(), table))


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("block", [None, (2, 2, 3)], ids=str)
def test_the_kernel_equals_the_reference(dtype: torch.dtype, block: tuple[int, int, int] | None) -> None:
    grid = None if block is None else BlockGrid(frames=3, rows=2, cols=4, block=block)
    x, weight, rope = draw(2, 24, 48, seed=0).to(dtype), draw(48, seed=1), draw(2, 24, 1, 8, seed=2)
    made, wanted = (
        to_heads(x, 3, weight_E=weight, eps=1e-6, rope=rope, grid=grid, backend=backend)
        for backend in ("interpreter", "reference")
    )
    assert made.dtype == dtype
    assert made.is_contiguous()
    torch.testing.assert_close(made, wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@settings(max_examples=6)
@given(
    batch=st.integers(1, 2),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    block=st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * 3)),
    heads=st.integers(1, 3),
    pairs=st.integers(1, 5),
    normed=st.booleans(),
    rotated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_is_computed(
    dtype: torch.dtype,
    batch: int,
    shape: tuple[int, int, int],
    block: tuple[int, int, int] | None,
    heads: int,
    pairs: int,
    normed: bool,
    rotated: bool,
    seed: int,
) -> None:
    frames, rows, cols = shape
    tokens, width = frames * rows * cols, heads * pairs * 2
    grid = None if block is None else BlockGrid(frames=frames, rows=rows, cols=cols, block=block)
    x = draw(batch, tokens, width, seed=seed).to(dtype)
    weight = draw(width, seed=seed + 1) if normed else None
    rope = draw(2, tokens, 1, pairs, seed=seed + 2) if rotated else None
    made = forward.run(
        x, heads, weight_E=weight, eps=1e-3, rope=rope, grid=grid, interpret=True,
        tiles=Tiles(m=4, j=1, warps=1, stages=1),
    )  # fmt: skip
    wanted = reference.to_heads(x, heads, weight_E=weight, eps=1e-3, rope=rope, grid=grid)
    assert made.dtype == dtype
    tolerance = 2 * TOLERANCE[dtype]
    torch.testing.assert_close(made, wanted, atol=tolerance, rtol=tolerance)


@needs_triton
def test_what_fills_blocks_up_is_zero_and_a_part_of_a_projection_is_read_in_place() -> None:
    grid = BlockGrid(frames=1, rows=3, cols=1, block=(1, 2, 2))
    joint = draw(1, 3, 3, 16, seed=0)
    made = to_heads(joint[:, :, 1], 2, grid=grid, backend="interpreter")
    assert torch.equal(made, grid.to_blocks(joint[:, :, 1].unflatten(2, (2, 8))))
    assert (made[0, 1, 1:] == 0).all()
    normed = to_heads(joint[:, :, 1], 2, weight_E=torch.ones(16), eps=0.0, grid=grid, backend="interpreter")
    assert (normed[0, 1, 1:] == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    x = draw(1, 6, 24, seed=0)
    with pytest.raises(ValueError, match="5 heads"):
        to_heads(x, 5)
    with pytest.raises(ValueError, match="weight"):
        to_heads(x, 2, weight_E=torch.ones(12))
    with pytest.raises(ValueError, match="cosines and sines"):
        to_heads(x, 2, rope=torch.ones(2, 5, 1, 6))
    with pytest.raises(ValueError, match="expected 8 tokens"):
        to_heads(x, 2, grid=BlockGrid(frames=2, rows=2, cols=2, block=(1, 2, 2)))
    with pytest.raises(BackendUnavailable, match="choose reference"):
        to_heads(x, 2, weight_E=torch.ones(24), backend="triton")
