"""Time a preset on this machine, end to end: networks and video encoder, size by size.

For example: ultraflash bench --sizes 0.5K 1K
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ultraflash.server.engine import Engine, PictureSize
    from ultraflash.server.media.h264 import H264Encoder

PROMPT = "a red hot air balloon over snowy mountains at dusk, camera drifting left"
SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One size.

    Attributes:
        size, width, height: of the pictures.
        first_frame_s: from the prompt to the first encoded frame, everything being warm.
        fps: frames made and encoded per second.
        playback_fps: frames per second that real time takes.
        stages_ms: milliseconds per frame by stage.
    """

    size: str
    width: int
    height: int
    first_frame_s: float
    fps: float
    playback_fps: int
    stages_ms: dict[str, float]

    @property
    def real_time(self) -> bool:
        """Whether one stream of it holds its rate here."""
        return self.fps >= self.playback_fps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML; options win over it")
    parser.add_argument(
        "--preset", help="name of a preset, or path of a TOML file (default: the best that fits)"
    )
    parser.add_argument(
        "--sizes", nargs="+", metavar="SIZE", help="sizes to time (default: all of the preset)"
    )
    parser.add_argument("--groups", type=int, default=4, help="timed groups of each size (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")


def run(args: argparse.Namespace) -> int:
    """Times every size and prints a table."""
    if args.groups < 1:
        raise BadOption(f"--groups must be at least 1, unlike {args.groups}.", param="groups")
    from rich.console import Console

    from ultraflash.server.engine import chosen_preset, load_engine
    from ultraflash.server.settings import load_settings

    console = Console(highlight=False)
    settings = load_settings(args.config, {} if args.preset is None else {"preset": args.preset})
    say = partial(console.print, markup=False, soft_wrap=True)
    name = chosen_preset(settings.engine, settings.preset, settings.size, say)
    with console.status(f"loading {name}"):
        engine = load_engine(settings.engine, name, settings.size)
    preset = engine.preset
    sizes = [preset.size(name) for name in args.sizes] if args.sizes else list(preset.sizes)
    timings = [_timed(engine, size, args.groups, console) for size in sizes]
    console.print(_table(preset.name, timings))
    if args.json is not None:
        document = {"preset": preset.name, "sizes": [asdict(timing) for timing in timings]}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _timed(engine: Engine, size: PictureSize, groups: int, console: Console) -> Timing:
    with console.status(f"timing {size.name}"):
        _first_frame_s(engine, size)  # warms up
        return time_size(engine, size, groups)


def time_size(engine: Engine, size: PictureSize, groups: int) -> Timing:
    """Times a size on an engine that is warm: the first frame of one stream, ``groups`` full groups of another."""
    first_frame_s = _first_frame_s(engine, size)
    encoder, state = _encoder(engine, size), engine.open(PROMPT, size=size.name, seed=SEED)
    for _ in range(2):  # the first group is shorter than the others, the second the first one of their shape
        engine.next_group(state)
    stages: dict[str, float] = {}
    encode_s = 0.0
    frames, started = 0, time.perf_counter()
    for _ in range(groups):
        group = engine.next_group(state)
        for stage, seconds in state.stage_seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        encode_start = time.perf_counter()
        for frame in group:
            encoder.encode(frame.numpy(), frames)
            frames += 1
        encode_s += time.perf_counter() - encode_start
    seconds = time.perf_counter() - started
    return Timing(
        size=size.name,
        width=size.width,
        height=size.height,
        first_frame_s=round(first_frame_s, 3),
        fps=round(frames / seconds, 2),
        playback_fps=engine.preset.fps,
        stages_ms={
            stage: round(1e3 * spent / frames, 2) for stage, spent in {**stages, "encode": encode_s}.items()
        },
    )


def _first_frame_s(engine: Engine, size: PictureSize) -> float:
    encoder, started = _encoder(engine, size), time.perf_counter()
    group = engine.next_group(engine.open(PROMPT, size=size.name, seed=SEED))
    encoder.encode(group[0].numpy(), 0)
    return time.perf_counter() - started


def _encoder(engine: Engine, size: PictureSize) -> H264Encoder:
    from ultraflash.server.media.h264 import H264Config, H264Encoder

    return H264Encoder(H264Config.live(width=size.width, height=size.height, fps=engine.preset.fps))


def _table(preset: str, timings: list[Timing]) -> Table:
    from rich.table import Table

    table = Table(title=f"{preset}, with encoding")
    table.add_column("")
    for timing in timings:
        table.add_column(f"{timing.size}\n{timing.width}x{timing.height}", justify="right")
    stages = list(dict.fromkeys(stage for timing in timings for stage in timing.stages_ms))
    for stage in stages:
        table.add_row(
            f"{stage}, ms a frame", *(f"{timing.stages_ms.get(stage, 0.0):.1f}" for timing in timings)
        )
    table.add_section()
    table.add_row("frames per second", *(f"{timing.fps:.1f}" for timing in timings))
    table.add_row("first frame, s", *(f"{timing.first_frame_s:.2f}" for timing in timings))
    table.add_row(
        f"real time at {timings[0].playback_fps}",
        *("yes" if timing.real_time else "no" for timing in timings),
    )
    return table
