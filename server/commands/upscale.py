"""Enlarge a video file by a preset's super-resolution.

For example: ultraflash upscale small.mp4 -o large.mp4 --factor 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from rich.progress import Progress

    from ultraflash.models.upscaling import Upscaler, UpscaleStream
    from ultraflash.server.media.video_file import VideoReader, VideoWriter

DEFAULT_PROMPT = "a video"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("input", type=Path, help="the video file to enlarge")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the MP4 file to write"
    )
    parser.add_argument("--factor", type=int, default=2, help="how far to enlarge (default 2)")
    parser.add_argument("--preset", default="mini", help="name of a preset, or path of a TOML file")
    parser.add_argument("--prompt", default=DEFAULT_PROMPT, help="what the video shows")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")


def run(args: argparse.Namespace) -> int:
    """Writes the file. Nothing appears under its name before it is complete."""
    _check(args)
    from rich.console import Console

    from ultraflash.models.cascade import Cascade
    from ultraflash.models.upscaling import Upscaler
    from ultraflash.server.media.video_file import VideoReader, VideoWriter
    from ultraflash.server.progress import frame_progress

    console = Console(stderr=True, highlight=False)
    with VideoReader(args.input) as reader:
        with console.status(f"loading {args.preset}"):
            upscaler = Upscaler.of(Cascade.load(args.preset))
        stream = upscaler.open(
            args.prompt, height=reader.height, width=reader.width, factor=args.factor, seed=args.seed
        )
        width, height = args.factor * reader.width, args.factor * reader.height
        start = time.perf_counter()
        with (
            frame_progress(console) as progress,
            VideoWriter(args.output, reader, width=width, height=height) as writer,
        ):
            frames = upscale(upscaler, stream, reader, writer, progress)
    seconds = time.perf_counter() - start
    console.print(
        f"{args.output}: {frames} frames of {width}x{height}, "
        f"made in {seconds:.1f} s ({frames / seconds:.1f} frames per second)",
        soft_wrap=True,
    )
    return 0


def upscale(
    upscaler: Upscaler, stream: UpscaleStream, reader: VideoReader, writer: VideoWriter, progress: Progress
) -> int:
    """Enlarges all frames; returns how many there were."""
    import numpy as np
    import torch

    task = progress.add_task("enlarging", total=reader.frames)
    done = 0
    for group in _groups(upscaler, stream, reader):
        frames_THWC = torch.from_numpy(np.stack([picture for _, picture in group]))
        enlarged = upscaler.next_group(stream, frames_THWC)
        for (moment, _), frame_HWC in zip(group, enlarged, strict=True):
            writer.write(frame_HWC.numpy(), moment)
        done += len(group)
        progress.update(task, completed=done)
    progress.update(task, total=done)
    return done


def _groups(upscaler: Upscaler, stream: UpscaleStream, reader: VideoReader) -> Iterator[list[Any]]:
    """Frames with their times, as many at once as the upscaler takes."""
    group = []
    for each in reader:
        group.append(each)
        if len(group) == upscaler.group_frames(stream):
            yield group
            group = []
    if group:
        yield group


def _check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded."""
    if args.output.suffix.lower() != ".mp4":
        raise BadOption(f"--output must end in .mp4, unlike {args.output}.", param="output")
    if not args.output.parent.is_dir():
        raise BadOption(f"The folder {args.output.parent} does not exist; create it first.", param="output")
    if args.output.is_dir() or args.output == args.input:
        raise BadOption(f"{args.output} cannot be written: it is a folder or the input.", param="output")
