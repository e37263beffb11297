from __future__ import annotations

import pytest
import torch

from ultraflash.models.frame_memory import FrameMemory, MemoryBlock, from_time_major, to_time_major


def frames(count: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(count * batch, 3, 4, 5)


def test_every_frame_gets_the_one_before_it() -> None:
    x_NCHW = frames(3)
    past_NCHW = FrameMemory(1, "zeros").delay(0, x_NCHW, 2)
    assert torch.equal(past_NCHW[2:], x_NCHW[:-2])
    assert not past_NCHW[:2].any()


def test_first_frame_can_stand_in_for_its_own_past() -> None:
    x_NCHW = frames(2)
    assert torch.equal(FrameMemory(1, "replicate").delay(0, x_NCHW, 2)[:2], x_NCHW[:2])


@pytest.mark.parametrize("first_frame", ["zeros", "replicate"])
def test_chunks_see_the_same_past_as_the_whole(first_frame: str) -> None:
    x_NCHW = frames(5)
    whole, memory = FrameMemory(1, first_frame), FrameMemory(1, first_frame)  # type: ignore[arg-type]
    parts = [memory.delay(0, part, 2) for part in (x_NCHW[:2], x_NCHW[2:8], x_NCHW[8:])]
    assert torch.equal(torch.cat(parts), whole.delay(0, x_NCHW, 2))


def test_slots_do_not_share_frames() -> None:
    memory = FrameMemory(2, "zeros")
    memory.delay(0, frames(1), 2)
    assert not memory.delay(1, frames(1), 2).any()


def test_changing_the_size_without_a_reset_is_an_error() -> None:
    memory = FrameMemory(1, "zeros")
    memory.delay(0, frames(1), 2)
    with pytest.raises(ValueError, match="reset"):
        memory.delay(0, torch.randn(2, 3, 8, 8), 2)
    memory.reset()
    assert not memory.delay(0, torch.randn(2, 3, 8, 8), 2).any()


def test_gradients_reach_the_frames_of_a_call_but_not_the_call_before() -> None:
    memory = FrameMemory(1, "replicate")
    first, second = frames(2).requires_grad_(), frames(2).requires_grad_()
    memory.delay(0, first, 2).sum().backward()
    memory.delay(0, second, 2).sum().backward()
    assert first.grad is not None
    assert first.grad[:2].eq(2).all()
    assert first.grad[2:].eq(0).all()
    assert second.grad is not None
    assert second.grad[:2].eq(1).all()


def test_zero_initialized_block_is_a_relu() -> None:
    x_NCHW = frames(2)
    assert torch.equal(MemoryBlock(3, zero_init=True)(x_NCHW, x_NCHW), x_NCHW.relu())


def test_time_major_order_can_be_undone() -> None:
    x_BTCHW = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(from_time_major(to_time_major(x_BTCHW), 2), x_BTCHW)
