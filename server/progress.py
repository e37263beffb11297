"""Progress of generation on a terminal: frames, frames per second, remaining time."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class FrameRate(ProgressColumn):
    """Frames per second of the newest groups."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} frames/s")


def frame_progress(console: Console) -> Progress:
    """A progress bar that counts frames; silent where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        FrameRate(),
        TimeRemainingColumn(),
        console=console,
    )
