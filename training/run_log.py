"""What a run tells: JSON lines on disk, TensorBoard events, progress on the terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ultraflash.training.checkpoint import write_atomically

_QUIET_SECONDS = 30.0


class RunLog:
    """Log of one stage: ``log.jsonl``, ``tensorboard/`` (where the package is installed) and progress lines.

    On a terminal the progress is a bar with the time that is left; elsewhere it is a plain line every 30 seconds.
    """

    def __init__(self, folder: Path, *, stage: str, resumed_at: int, tensorboard: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stage = stage
        self._path = folder / "log.jsonl"
        _forget_after(self._path, resumed_at)
        self._file = self._path.open("a", buffering=1)
        self._writer = _summary_writer(folder / "tensorboard", resumed_at) if tensorboard else None
        self._bar = _Bar(stage) if sys.stderr.isatty() else None
        self._last_line = 0.0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()
        self._file.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Append one record of named numbers."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def picture(self, step: int, name: str, picture_HWC: torch.Tensor) -> None:
        """Show a uint8 (H, W, 3) picture in TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(f"{self._stage}/{name}", picture_HWC, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """Print one line now."""
        if self._bar is not None:
            self._bar.say(f"{self._stage}: {text}")
        else:
            print(f"{time.strftime('%H:%M:%S')} {self._stage}: {text}", file=sys.stderr, flush=True)

    def progress(self, done: float, *, elapsed: float, text: str, now: bool = False) -> None:
        """Report that the fraction ``done`` in [0, 1] of the work took ``elapsed`` seconds."""
        left = elapsed * (1 - done) / done if done > 0 else float("inf")
        if self._bar is not None:
            self._bar.update(done, f"{text}, {_duration(left)} left")
            return
        if now or time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"{100 * done:5.1f}% {text}, {_duration(left)} left")


class _Bar:
    """A rich progress bar, imported only where there is a terminal to draw on."""

    def __init__(self, stage: str) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress.start()
        self._task = self._progress.add_task(stage, total=1.0, text="")

    def update(self, done: float, text: str) -> None:
        self._progress.update(self._task, completed=done, text=text)

    def say(self, text: str) -> None:
        self._progress.console.print(text)

    def close(self) -> None:
        self._progress.stop()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a ``log.jsonl``, without a last line that a kill cut short."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _forget_after(path: Path, step: int) -> None:
    """Drop records after ``step``: a resumed run makes them again, and the curve should show each step once."""
    records = read_log(path)
    kept = "".join(json.dumps(record) + "\n" for record in records if record["step"] <= step)
    write_atomically(path, kept.encode())


def _summary_writer(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the optional extra is not installed; the JSON lines say the same
        return None
    return SummaryWriter(str(folder), purge_step=resumed_at + 1)


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
