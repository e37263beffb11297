from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.training.evaluation.long_streams import MOMENTS, LongStream, long_stream
from ultraflash.training.evaluation.streams import make_prompts, stream_groups

PROMPTS = make_prompts(3, split="test", seed=0)
SECONDS = 1.5
FPS = 16


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade.load("mini")


@pytest.fixture(scope="module")
def unchanged(cascade: Cascade) -> Tensor:
    """The frames of a stream with the first prompt, shrunk."""
    groups = stream_groups(cascade, PROMPTS[0].text, seconds=SECONDS, size="0.5K", seed=5)
    return torch.cat(list(groups))


def made(cascade: Cascade, *, prompts: int) -> LongStream:
    return long_stream(cascade, PROMPTS[:prompts], seconds=SECONDS, size="0.5K", seed=5, ends_s=0.5)


def test_the_ends_and_the_moments_are_frames_of_one_stream(cascade: Cascade, unchanged: Tensor) -> None:
    stream = made(cascade, prompts=1)
    assert torch.equal(stream.start, unchanged[:9])
    assert torch.equal(stream.end, unchanged[-12:])
    assert len(stream.moments) == MOMENTS
    assert [round(seconds * FPS) for seconds, _ in stream.moments] == [0, 3, 6, 9, 12, 14, 17, 20, 23]
    assert all(torch.equal(frame, unchanged[round(seconds * FPS)]) for seconds, frame in stream.moments)


def test_prompts_follow_each_other_at_equal_times(cascade: Cascade, unchanged: Tensor) -> None:
    stream = made(cascade, prompts=3)
    assert [stay.prompt for stay in stream.stays] == PROMPTS
    assert torch.equal(stream.stays[0].frames_THWC, unchanged[:9])
    assert not torch.equal(stream.stays[1].frames_THWC, unchanged[9:21])
    assert torch.equal(stream.stays[2].frames_THWC, stream.end)
