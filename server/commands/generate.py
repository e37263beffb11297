"""Make a video file from a prompt.

For example: ultraflash generate "snowy mountains at night, snow falling" -o out.mp4 --seconds 5 --size 0.5K --seed 7
"""

from __future__ import annotations

import argparse
import secrets
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ultraflash.models.errors import InvalidSeed
from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from rich.progress import Progress

    from ultraflash.server.engine import Engine, EngineState, PictureSize

MAX_SEED = 2**63 - 1
MAX_FPS = 60
DEFAULT_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("prompt", help="what to show")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the MP4 file to write"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML; options win over it")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="length (default 5)")
    parser.add_argument("--size", help="a name such as 0.5K, 1K, 2K, or WxH (default: the preset's)")
    parser.add_argument("--seed", type=int, help="same seed, same video; drawn and printed if absent")
    parser.add_argument(
        "--preset", help="name of a preset, or path of a TOML file (default: the best that fits)"
    )
    parser.add_argument("--fps", type=int, help="playback rate (default: the preset's)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make.

    Attributes:
        frames: number of frames.
        size: a size of the preset.
        fps: playback rate.
    """

    prompt: str
    output: Path
    frames: int
    size: PictureSize
    fps: int
    seed: int


def run(args: argparse.Namespace) -> int:
    """Generates the file. Nothing appears under its name before it is complete."""
    _check(args)
    from rich.console import Console

    from ultraflash.server.engine import chosen_preset, load_engine
    from ultraflash.server.progress import frame_progress
    from ultraflash.server.settings import load_settings

    console = Console(stderr=True, highlight=False)
    named = {"preset": args.preset, "size": args.size}
    options = {name: value for name, value in named.items() if value is not None}
    settings = load_settings(args.config, options)
    say = partial(console.print, markup=False, soft_wrap=True)
    preset = chosen_preset(settings.engine, settings.preset, settings.size, say)
    with console.status(f"loading {preset}"):
        engine = load_engine(settings.engine, preset, settings.size)
    order = _order(args, engine, settings.size)
    start = time.perf_counter()
    generate(engine, order, frame_progress(console))
    seconds = time.perf_counter() - start
    console.print(
        f"{order.output}: {order.frames} frames of {order.size.width}x{order.size.height} at {order.fps} per second, "
        f"seed {order.seed}, made in {seconds:.1f} s ({order.frames / seconds:.1f} frames per second)",
        soft_wrap=True,
    )
    return 0


def generate(engine: Engine, order: Order, progress: Progress) -> None:
    """Runs the engine and writes its frames. Raises the engine's errors; an interrupted file leaves no trace."""
    import numpy as np

    from ultraflash.server.media.boxes import VideoTrack
    from ultraflash.server.media.h264 import H264Config, H264Encoder
    from ultraflash.server.media.mp4 import Mp4Writer

    width, height = order.size.width, order.size.height
    encoder = H264Encoder(H264Config.file(width=width, height=height, fps=order.fps))
    track = VideoTrack(width=width, height=height, fps=order.fps, parameter_sets=encoder.parameter_sets)
    state: EngineState = engine.open(order.prompt, size=order.size.name, seed=order.seed)
    with progress, Mp4Writer(order.output, track) as writer:
        task = progress.add_task("generating", total=order.frames)
        done = 0
        while done < order.frames:
            frames_THWC = np.asarray(engine.next_group(state))[: order.frames - done]
            for offset, frame_HWC in enumerate(frames_THWC):
                for unit in encoder.encode(frame_HWC, done + offset):
                    writer.write(unit)
            done += len(frames_THWC)
            progress.update(task, completed=done)
        for unit in encoder.flush():
            writer.write(unit)


def _check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded."""
    if args.output.suffix.lower() != ".mp4":
        raise BadOption(f"--output must end in .mp4, unlike {args.output}.", param="output")
    if not args.output.parent.is_dir():
        raise BadOption(f"The folder {args.output.parent} does not exist; create it first.", param="output")
    if args.output.is_dir():
        raise BadOption(f"{args.output} is a folder.", param="output")
    if not 0 < args.seconds < float("inf"):
        raise BadOption(f"--seconds must be above 0, unlike {args.seconds}.", param="seconds")
    if args.fps is not None and not 1 <= args.fps <= MAX_FPS:
        raise BadOption(f"--fps must be 1 to {MAX_FPS}, unlike {args.fps}.", param="fps")
    if args.seed is not None and not 0 <= args.seed <= MAX_SEED:
        raise InvalidSeed(f"--seed must be 0 to {MAX_SEED}, unlike {args.seed}.", param="seed")


def _order(args: argparse.Namespace, engine: Engine, size: str | None) -> Order:
    fps = args.fps or engine.preset.fps
    return Order(
        prompt=engine.check_prompt(args.prompt),
        output=args.output,
        frames=max(1, round(args.seconds * fps)),
        size=engine.preset.size(size or engine.preset.default_size),
        fps=fps,
        seed=secrets.randbelow(2**53) if args.seed is None else args.seed,
    )
