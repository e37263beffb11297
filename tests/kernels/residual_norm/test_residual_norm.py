"""The gated sum and the modulated LayerNorm, the kernel of which Triton's interpreter runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels import residual_norm
from ultraflash.kernels.backends import BackendUnavailable, has_triton
from ultraflash.kernels.residual_norm import forward, reference
from ultraflash.kernels.tiles import Tiles

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def per_frame(batch: int, frames: int, width: int, *, seed: int) -> tuple[Tensor, ...]:
    """Gate, factor and offset as the timestep gives them: views of one tensor."""
    return draw(batch, frames, 3, width, seed=seed).unsqueeze(3).unbind(2)


def test_the_reference_is_what_it_says() -> None:
    x, update, (gate, factor, offset) = (
        draw(2, 6, 8, seed=0),
        draw(2, 6, 8, seed=1),
        per_frame(1, 3, 8, seed=2),
    )
    spread = [part.expand(2, 3, 2, 8).reshape(2, 6, 8) for part in (gate, factor, offset)]
    stream = x + spread[0] * update
    centred = stream - stream.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * spread[1] + spread[2]
    made = residual_norm.add_normed(x, update, gate, factor, offset, eps=1e-6, dtype=torch.float32)
    torch.testing.assert_close(made, (stream, wanted))


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["per frame", "for all"])
def test_the_kernel_equals_the_reference(dtype: torch.dtype, whole: bool) -> None:
    x, update = draw(1, 12, 40, seed=0), draw(1, 12, 40, seed=1).to(dtype)
    gate, factor, offset = per_frame(1, 3, 40, seed=2)
    if whole:
        factor, offset = factor[0, 0, 0], offset[0, 0, 0]
    calls = {
        backend: residual_norm.add_normed(
            x, update, gate, factor, offset, eps=1e-6, dtype=dtype, backend=backend
        )
        for backend in ("reference", "interpreter")
    }
    (stream, normed), (wanted_stream, wanted) = calls["interpreter"], calls["reference"]
    assert stream.dtype == torch.float32
    assert normed.dtype == dtype
    torch.testing.assert_close(stream, wanted_stream, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normed, wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@settings(max_examples=6)
@given(
    batch=st.integers(1, 2),
    shared=st.booleans(),
    frames=st.integers(1, 3),
    frame_tokens=st.integers(1, 5),
    width=st.integers(2, 40),
    gated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_is_computed(
    dtype: torch.dtype,
    batch: int,
    shared: bool,
    frames: int,
    frame_tokens: int,
    width: int,
    gated: bool,
    seed: int,
) -> None:
    x, update = (draw(batch, frames * frame_tokens, width, seed=seed + i) for i in range(2))
    update = update.to(dtype)
    gate, factor, offset = per_frame(1 if shared else batch, frames, width, seed=seed)
    made = forward.run(
        x, update, gate if gated else None, (factor, offset), eps=1e-3, dtype=dtype, interpret=True,
        tiles=Tiles(m=4, j=1, warps=1, stages=1),
    )  # fmt: skip
    stream = reference.add(x, update, gate if gated else None)
    wanted = reference.normed(stream, factor, offset, eps=1e-3, dtype=dtype)
    torch.testing.assert_close(made[0], stream, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(made[1], wanted, atol=2 * TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype])


@needs_triton
def test_sum_and_norm_can_be_had_alone() -> None:
    x, update = draw(1, 6, 24, seed=0), draw(1, 6, 24, seed=1).bfloat16()
    gate, factor, offset = per_frame(1, 2, 24, seed=2)
    for wanted_gate in (gate, None):
        torch.testing.assert_close(
            residual_norm.add(x, update, wanted_gate, backend="interpreter"),
            residual_norm.add(x, update, wanted_gate, backend="reference"),
        )
    normed = [
        residual_norm.normed(x, factor, offset, eps=1e-6, dtype=torch.float32, backend=backend)
        for backend in ("interpreter", "reference")
    ]
    torch.testing.assert_close(*normed)


def test_what_does_not_fit_is_refused() -> None:
    x = draw(1, 6, 24, seed=0)
    gate, factor, offset = per_frame(1, 4, 24, seed=2)
    with pytest.raises(ValueError, match="divide 6 tokens"):
        residual_norm.add(x, x, gate)
    with pytest.raises(ValueError, match="divide 6 tokens"):
        residual_norm.normed(x, factor, offset, eps=0.0, dtype=x.dtype)
    with pytest.raises(ValueError, match="differ in shape"):
        residual_norm.normed(x, factor, offset[0, 0, 0], eps=0.0, dtype=x.dtype)


def test_the_kernel_has_no_gradient_and_is_not_for_the_cpu() -> None:
    x = draw(1, 6, 24, seed=0)
    with pytest.raises(BackendUnavailable, match="choose reference"):
        residual_norm.add(x, x, backend="triton")
    if has_triton():
        with pytest.raises(ValueError, match="no gradient"):
            residual_norm.add(x.requires_grad_(), x, backend="interpreter")
    assert residual_norm.add(x.requires_grad_(), x).requires_grad
