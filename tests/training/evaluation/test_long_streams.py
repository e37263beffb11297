from __future__ import annotations

import torch

from ultraflash.models.cascade import Cascade
from ultraflash.training.evaluation.long_streams import MOMENTS, LongStream, long_stream
from ultraflash.training.evaluation.streams import make_prompts, stream_groups

PROMPTS = make_prompts(3, split="test", seed=0)
SECONDS = 3.0


def made(*, prompts: int) -> tuple[Cascade, LongStream]:
    cascade = Cascade.load("mini")
    stream = long_stream(cascade, PROMPTS[:prompts], seconds=SECONDS, size="0.5K", seed=5, ends_s=1.0)
    return cascade, stream


def test_the_ends_and_the_moments_are_frames_of_one_stream() -> None:
    cascade, stream = made(prompts=1)
    frames = torch.cat(list(stream_groups(cascade, PROMPTS[0].text, seconds=SECONDS, size="0.5K", seed=5)))
    fps = cascade.preset.fps
    assert fps <= len(stream.start) < fps + 12 and fps <= len(stream.end) < fps + 12
    assert torch.equal(stream.start, frames[: len(stream.start)])
    assert torch.equal(stream.end, frames[-len(stream.end) :])
    assert len(stream.moments) == MOMENTS
    assert stream.moments[0][0] == 0 and SECONDS - stream.moments[-1][0] <= 1 / fps
    assert all(torch.equal(frame, frames[round(seconds * fps)]) for seconds, frame in stream.moments)


def test_prompts_follow_each_other_at_equal_times() -> None:
    cascade, stream = made(prompts=3)
    plain = torch.cat(list(stream_groups(cascade, PROMPTS[0].text, seconds=SECONDS, size="0.5K", seed=5)))
    assert [stay.prompt for stay in stream.stays] == PROMPTS
    # The first change comes after a third of the stream, at the group's end that follows: up to it nothing differs.
    assert torch.equal(stream.moments[1][1], plain[round(stream.moments[1][0] * cascade.preset.fps)])
    assert not torch.equal(stream.end[-12:], plain[-12:])
    assert torch.equal(stream.stays[-1].frames_THWC, stream.end[-12:])
