"""Time a preset on this machine, end to end: networks and video encoder, size by size.

For example: ultraflash bench --sizes 0.5K 1K
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ultraflash.server.engine import Engine, PictureSize
    from ultraflash.server.size_timing import SizeTiming


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
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the results there, and what they were measured on",
    )


def run(args: argparse.Namespace) -> int:
    """Times every size and prints a table."""
    if args.groups < 1:
        raise BadOption(f"--groups must be at least 1, unlike {args.groups}.", param="groups")
    from rich.console import Console

    from ultraflash.models.provenance import provenance
    from ultraflash.server.engine import chosen_preset, load_engine
    from ultraflash.server.settings import load_settings
    from ultraflash.server.size_timing import PROMPT

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
        document = {
            "benchmark": "bench",
            "preset": preset.name,
            "prompt": PROMPT,
            **provenance(),
            "sizes": [asdict(timing) for timing in timings],
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _timed(engine: Engine, size: PictureSize, groups: int, console: Console) -> SizeTiming:
    from ultraflash.server.size_timing import time_first_frame, time_size

    with console.status(f"timing {size.name}"):
        time_first_frame(engine, size)  # warms up
        return time_size(engine, size, groups=groups)


def _table(preset: str, timings: list[SizeTiming]) -> Table:
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
