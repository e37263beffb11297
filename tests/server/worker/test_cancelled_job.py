"""A job that is cancelled in the middle of a group gets no other one."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from pattern_engine import PatternEngine, PatternState

from ultraflash.server.settings import Settings
from ultraflash.server.worker.cost_book import CostBook
from ultraflash.server.worker.loop import WorkerLoop
from ultraflash.server.worker.messages import CancelJob, Command, JobFinished, JobStopped, RunJob, Shutdown
from ultraflash.server.worker.stream_sizes import StreamSizes

CANCELLED_IN_GROUP = 3
PATIENCE_S = 60.0


class CountingEngine(PatternEngine):
    """Cancels the long job while it makes a group of it."""

    def __init__(self, commands: queue.Queue[Command]) -> None:
        super().__init__()
        self.groups: dict[str, int] = {}
        self._commands = commands

    def next_group(self, state: PatternState) -> np.ndarray:
        self.groups[state.prompt] = self.groups.get(state.prompt, 0) + 1
        if state.prompt == "long" and self.groups["long"] == CANCELLED_IN_GROUP:
            self._commands.put(CancelJob(job_id="long"))
        return super().next_group(state)


def job(name: str, folder: Path, frames: int) -> RunJob:
    (folder / name).mkdir()
    return RunJob(
        job_id=name,
        cues=[[0, name]],
        size="0.5K",
        seed=1,
        fps=16,
        frames=frames,
        path=str(folder / name / "out.mp4"),
        reference=None,
        resume_from=None,
    )


def sizes_of(engine: CountingEngine) -> StreamSizes:
    """Sizes of live streams, of which there are none here."""
    pixels = {size.name: size.width * size.height for size in engine.preset.sizes}
    return StreamSizes(
        engine,
        possible=tuple(pixels),
        largest=None,
        adapt_named=False,
        raise_after_s=10.0,
        costs=CostBook(pixels),
        clock=time.monotonic,
    )


def test_the_group_in_work_is_the_last_one(tmp_path: Path) -> None:
    commands: queue.Queue[Command] = queue.Queue()
    engine = CountingEngine(commands)
    reports: list[Any] = []

    # Ordered only once the long job has stopped: side by side, the one whose encoder is faster would come first.
    def take(report: Any) -> None:
        reports.append(report)
        if isinstance(report, JobStopped):
            commands.put(job("short", tmp_path, 20))
        elif isinstance(report, JobFinished):
            commands.put(Shutdown())

    commands.put(job("long", tmp_path, 10_000))
    give_up = threading.Timer(PATIENCE_S, commands.put, [Shutdown()])
    give_up.start()
    WorkerLoop(engine, Settings().configure(None), sizes_of(engine), commands, take).run()
    give_up.cancel()
    assert engine.groups == {"long": CANCELLED_IN_GROUP, "short": 2}
    assert JobStopped(job_id="long") in reports
    assert not (tmp_path / "long" / "out.mp4").exists()
    assert (tmp_path / "short" / "out.mp4").exists()
