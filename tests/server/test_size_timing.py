"""The loop that times a size: what is counted, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_engine import PatternEngine, PatternState

from ultraflash.server.size_timing import SizeTiming, time_size


class Compiling(PatternEngine):
    """The first two groups of a stream have a stage that later ones have not."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def next_group(self, state: PatternState) -> np.ndarray:
        early = state.frames_emitted < 21
        frames = super().next_group(state)
        if early:
            state.stage_seconds = {**state.stage_seconds, "compile": 60.0}
        self.made.append(len(frames))
        return frames


@pytest.fixture(scope="module")
def timed() -> tuple[Compiling, SizeTiming]:
    engine = Compiling()
    return engine, time_size(engine, engine.preset.size("1K"), groups=3)


def test_groups_before_the_timed_ones_are_made_and_not_counted(timed: tuple[Compiling, SizeTiming]) -> None:
    engine, timing = timed
    assert engine.made == [9, 9, 12, 12, 12, 12]
    assert timing.frames == 36
    assert "compile" not in timing.stages_ms
    assert timing.first_frame_s > 0.01


def test_stages_and_the_encoder_make_up_a_frames_time(timed: tuple[Compiling, SizeTiming]) -> None:
    _, timing = timed
    assert list(timing.stages_ms) == ["base", "sr", "encode"]
    # Half of a group's 10 ms each, over 12 frames.
    assert timing.stages_ms["base"] == timing.stages_ms["sr"] == pytest.approx(5 / 12, abs=0.01)
    assert sum(timing.stages_ms.values()) <= timing.frame_ms + 0.02
    assert timing.frame_ms <= timing.frame_ms_slowest_group
    assert timing.fps == pytest.approx(1000 / timing.frame_ms, rel=0.01)


def test_pixels_and_rate_are_those_of_the_size_and_the_preset(timed: tuple[Compiling, SizeTiming]) -> None:
    _, timing = timed
    assert (timing.size, timing.width, timing.height, timing.playback_fps) == ("1K", 416, 240, 16)
    assert timing.mbit_per_s_of_video > 0
    assert timing.real_time == (timing.fps >= 16)
