"""Watch a stream of a server, and keep it as a file.

Starts a session of one's own: ultraflash watch http://127.0.0.1:8000 --prompt "a lake at dawn" -o lake.mp4 --seconds 10
or watches somebody else's: ultraflash watch http://127.0.0.1:8000 --session ID --token TOKEN -o theirs.mp4

The file holds the frames as they were sent, without encoding them again. Ctrl-C ends it. Where the server wants an API
key, it is taken from the environment variable ULTRAFLASH_API_KEY, or from --key, which others on this machine can see.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from rich.console import Console

    from ultraflash.server.client import FramePacket
    from ultraflash.server.media.fragmented_file import FragmentedFile
    from ultraflash.server.protocol import ServerEvent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("url", help="the server, such as http://127.0.0.1:8000")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the MP4 file to write")
    parser.add_argument("--prompt", help="start a session that shows this")
    parser.add_argument("--size", help="of one's own session: a name such as 0.5K, 1K, 2K, or WxH")
    parser.add_argument("--seed", type=int, help="of one's own session: same seed, same video")
    parser.add_argument("--session", metavar="ID", help="watch this session")
    parser.add_argument("--token", help="its viewer_token")
    parser.add_argument("--key", help="API key of the server (default: $ULTRAFLASH_API_KEY)")
    parser.add_argument("--seconds", type=float, help="length (default: until it ends)")


def run(args: argparse.Namespace) -> int:
    """Watches until the end. Returns 0; an interrupted file holds what has come so far."""
    _check(args)
    from rich.console import Console

    asyncio.run(watch(args, Console(stderr=True, highlight=False)))
    return 0


async def watch(args: argparse.Namespace, console: Console) -> None:
    """Connects, counts frames, and writes them. Raises the client's errors."""
    from ultraflash.server.client import connect
    from ultraflash.server.progress import frame_progress

    chosen: dict[str, Any] = {"size": args.size, "seed": args.seed}
    start = {name: value for name, value in chosen.items() if value is not None}
    files = OutputFiles(args.output)
    progress = frame_progress(console)
    async with connect(
        args.url,
        prompt=args.prompt,
        session=args.session,
        token=args.token,
        on_event=partial(_tell, console),
        key=args.key or os.environ.get("ULTRAFLASH_API_KEY"),
        **start,
    ) as stream:
        frames = None if args.seconds is None else max(1, round(args.seconds * stream.started.fps))
        try:
            with progress:
                task = progress.add_task("watching", total=frames)
                async for packet in stream:
                    files.write(packet)
                    progress.update(task, advance=1)
                    if files.frames == frames:
                        break
        finally:
            files.finish()
            console.print(files.summary(), soft_wrap=True)


def _tell(console: Console, event: ServerEvent) -> None:
    """Says what somebody who waits wants to know."""
    if event.type == "queue.status":
        wait = "" if event.eta_s is None else f", about {event.eta_s:.0f} s"
        console.print(f"waiting for a place: {event.position} of {event.depth}{wait}")
    elif event.type == "quality.changed":
        bits = "" if event.bitrate_share is None else f" at {event.bitrate_share:.0%} of its bitrate"
        console.print(f"size {event.size}{bits} ({event.reason})")


class OutputFiles:
    """The file that is asked for, and a further one wherever the picture changes its size."""

    def __init__(self, output: Path | None) -> None:
        self.frames = 0
        self._output = output
        self._written: list[Path] = []
        self._file: FragmentedFile | None = None

    def write(self, packet: FramePacket) -> None:
        """Counts and keeps a frame."""
        self.frames += 1
        if self._output is not None:
            self._keep(self._output, packet)

    def finish(self) -> None:
        """Completes the file at hand."""
        file, self._file = self._file, None
        if file is not None:
            file.finish()

    def summary(self) -> str:
        """What there is now."""
        names = ", ".join(str(path) for path in self._written)
        return f"{names}: {self.frames} frames" if names else f"{self.frames} frames"

    def _keep(self, output: Path, packet: FramePacket) -> None:
        from ultraflash.server.media.annexb import ParameterSets
        from ultraflash.server.media.boxes import VideoTrack
        from ultraflash.server.media.fragmented_file import FragmentedFile

        if packet.key:
            config = packet.config
            track = VideoTrack(
                width=config.width,
                height=config.height,
                fps=config.fps,
                parameter_sets=ParameterSets.find(packet.data),
            )
            if self._file is None or self._file.track != track:
                self.finish()
                self._file = FragmentedFile(self._next_path(output), track)
        if self._file is not None:
            self._file.write(packet.data, key=packet.key)

    def _next_path(self, output: Path) -> Path:
        number = len(self._written) + 1
        path = output if number == 1 else output.with_stem(f"{output.stem}-{number}")
        self._written.append(path)
        return path


def _check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is asked of the server."""
    output: Path | None = args.output
    if output is not None:
        if output.suffix.lower() != ".mp4":
            raise BadOption(f"--output must end in .mp4, unlike {output}.", param="output")
        if not output.parent.is_dir():
            raise BadOption(f"The folder {output.parent} does not exist; create it first.", param="output")
    if args.seconds is not None and not 0 < args.seconds < float("inf"):
        raise BadOption(f"--seconds must be above 0, unlike {args.seconds}.", param="seconds")
