"""What warming up says that a frame costs."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_engine import PatternEngine, PatternState

from ultraflash.server.worker import warm_up as module
from ultraflash.server.worker.warm_up import warm_up


class Clock:
    """Time that passes where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class SlowMaker(PatternEngine):
    """Takes so many seconds of a clock for each frame."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def next_group(self, state: PatternState) -> np.ndarray:
        frames = super().next_group(state)
        self.clock.now += self.seconds * len(frames)
        return frames


@pytest.mark.parametrize(
    ("gpu", "making", "encoding", "cost"),
    [
        (None, 0.03, 0.02, 0.05),
        ("3/8", 0.03, 0.02, 0.03),
        ("3/8", 0.03, 0.04, 0.04),
    ],
    ids=["a CPU does both", "a GPU makes frames beside the encoder", "an encoder that is slower than a GPU"],
)
def test_encoding_counts_where_it_takes_from_the_making(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, making: float, encoding: float, cost: float
) -> None:
    clock = Clock()

    class Encoder(module.H264Encoder):
        def encode(self, *frame: object) -> object:
            clock.now += encoding
            return super().encode(*frame)

    monkeypatch.setattr(module, "H264Encoder", Encoder)
    monkeypatch.setattr(module.time, "perf_counter", clock.perf_counter)
    if gpu is not None:
        monkeypatch.setenv("PATTERN_GPU", gpu)
    warm = warm_up(SlowMaker(clock, making), "0.5K", lambda _: None)
    assert warm.costs.seconds("0.5K") == pytest.approx(cost)
