"""How fast an engine makes pictures of a size, encoding included: what ``ultraflash bench`` and
``benchmarks/cascade.py`` report."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import numpy as np

from ultraflash.server.media.h264 import H264Config, H264Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ultraflash.server.engine import Engine, PictureSize

PROMPT = "a red hot air balloon over snowy mountains at dusk, camera drifting left"
SEED = 7
WARM_UP_GROUPS = 2
"""The first group is shorter than the others, the second the first one of their shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTiming:
    """One size of an engine that is warm.

    Attributes:
        size, width, height: of the pictures.
        playback_fps: frames per second that real time takes.
        first_frame_s: from the prompt to the first encoded frame.
        frames: timed; everything below is of them.
        fps: frames made and encoded per second.
        stages_ms: milliseconds per frame by stage.
        frame_ms, frame_ms_slowest_group, frame_cpu_ms: milliseconds per frame by the clock, by the clock in the
            slowest group, and of all cores together.
        mbit_per_s_of_video: at playback rate.
    """

    size: str
    width: int
    height: int
    playback_fps: int
    first_frame_s: float
    frames: int
    fps: float
    stages_ms: dict[str, float]
    frame_ms: float
    frame_ms_slowest_group: float
    frame_cpu_ms: float
    mbit_per_s_of_video: float

    @property
    def real_time(self) -> bool:
        """Whether one stream of it holds its rate here."""
        return self.fps >= self.playback_fps


def time_size(
    engine: Engine, size: PictureSize, *, groups: int, warmup: int = WARM_UP_GROUPS, seed: int = SEED
) -> SizeTiming:
    """Time a size on an engine that is warm: the first frame of one stream, ``groups`` groups of another behind its
    first ``warmup``."""
    first_frame_s = time_first_frame(engine, size, seed=seed)
    encoder, stream = _encoder(engine, size), engine.open(PROMPT, size=size.name, seed=seed)
    stages: dict[str, float] = {}
    index = frames = coded_bytes = 0
    slowest = wall = cpu = 0.0
    for group in range(warmup + groups):
        wall_start, cpu_start = perf_counter(), process_time()
        made = np.asarray(engine.next_group(stream))
        encode_start = perf_counter()
        coded = _encode(encoder, made, index)
        wall_end = perf_counter()
        index += len(made)
        if group < warmup:
            continue
        for stage, seconds in {**stream.stage_seconds, "encode": wall_end - encode_start}.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        frames += len(made)
        coded_bytes += coded
        wall += wall_end - wall_start
        cpu += process_time() - cpu_start
        slowest = max(slowest, (wall_end - wall_start) / len(made))
    playback_fps = engine.preset.fps
    return SizeTiming(
        size=size.name,
        width=size.width,
        height=size.height,
        playback_fps=playback_fps,
        first_frame_s=round(first_frame_s, 3),
        frames=frames,
        fps=round(frames / wall, 2),
        stages_ms={stage: round(1e3 * seconds / frames, 2) for stage, seconds in stages.items()},
        frame_ms=round(1e3 * wall / frames, 2),
        frame_ms_slowest_group=round(1e3 * slowest, 2),
        frame_cpu_ms=round(1e3 * cpu / frames, 2),
        mbit_per_s_of_video=round(8e-6 * coded_bytes / frames * playback_fps, 2),
    )


def time_first_frame(engine: Engine, size: PictureSize, *, seed: int = SEED) -> float:
    """Seconds from a prompt to the first encoded frame of its stream."""
    encoder, start = _encoder(engine, size), perf_counter()
    frames = np.asarray(engine.next_group(engine.open(PROMPT, size=size.name, seed=seed)))
    encoder.encode(frames[0], 0)
    return perf_counter() - start


def _encoder(engine: Engine, size: PictureSize) -> H264Encoder:
    return H264Encoder(H264Config.live(width=size.width, height=size.height, fps=engine.preset.fps))


def _encode(encoder: H264Encoder, frames: NDArray[np.uint8], index: int) -> int:
    """Encode frames, the first under number ``index``; bytes that came out."""
    units = [unit for i, frame in enumerate(frames) for unit in encoder.encode(frame, index + i)]
    return sum(len(unit.data) for unit in units)
