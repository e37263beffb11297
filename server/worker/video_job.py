"""One video job as the worker sees it: the engine's state, and a thread that encodes and writes the file.

Axis letters: T frames, H rows, W columns, C the channels R, G, B.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ultraflash.server.engine import Engine, EngineState, PictureSize
from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.h264 import H264Config, H264Encoder
from ultraflash.server.media.mp4 import Mp4Writer
from ultraflash.server.worker.messages import (
    JobFailed,
    JobFinished,
    JobProgress,
    JobReport,
    JobStopped,
    RunJob,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

GROUPS_IN_HAND = 1
FAULT = "engine_fault"


class _Stopped(Exception):
    """The job is not wanted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Frames on their way to the encoder; ``last`` ends the file."""

    frames_THWC: NDArray[np.uint8] | None
    last: bool


class JobWriter:
    """Encodes the groups of one job on a thread of its own and writes them into one MP4.

    The file is there under its name only when it is complete. What becomes of the job is reported from the thread.
    """

    def __init__(self, command: RunJob, size: PictureSize, emit: Callable[[JobReport], None]) -> None:
        self._job_id = command.job_id
        self._path = Path(command.path)
        self._fps = command.fps
        self._size = size
        self._emit = emit
        self._groups: queue.Queue[_Group] = queue.Queue(maxsize=GROUPS_IN_HAND)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"job-{command.job_id}", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether another group can be handed over without waiting."""
        return not self._groups.full()

    @property
    def over(self) -> bool:
        """Whether it has stopped, of its own accord or as told."""
        return self._stopped.is_set() or not self._thread.is_alive()

    def write(self, frames_THWC: NDArray[np.uint8], *, last: bool) -> None:
        """Hands over the next frames, uint8 RGB; after the last ones the file is completed."""
        self._groups.put(_Group(frames_THWC=frames_THWC, last=last))

    def stop(self) -> None:
        """Gives the file up, within a frame."""
        self._stopped.set()
        if self.has_room:
            self._groups.put(_Group(frames_THWC=None, last=True))

    def _run(self) -> None:
        try:
            frames = self._write_file()
        except _Stopped:
            self._emit(JobStopped(job_id=self._job_id))
        except Exception:
            log.exception("writing the video failed job=%s", self._job_id)
            self._stopped.set()
            self._emit(
                JobFailed(
                    job_id=self._job_id,
                    code="write_failed",
                    message="The video could not be encoded or written; the server's log says why.",
                )
            )
        else:
            self._emit(JobFinished(job_id=self._job_id, frames=frames, path=str(self._path)))

    def _write_file(self) -> int:
        width, height = self._size.width, self._size.height
        encoder = H264Encoder(H264Config.file(width=width, height=height, fps=self._fps))
        track = VideoTrack(width=width, height=height, fps=self._fps, parameter_sets=encoder.parameter_sets)
        index = 0
        with Mp4Writer(self._path, track) as writer:
            for frames_THWC in self._wanted_groups():
                for frame_HWC in frames_THWC:
                    self._check_wanted()
                    for unit in encoder.encode(frame_HWC, index):
                        writer.write(unit)
                    index += 1
                self._emit(JobProgress(job_id=self._job_id, frames=index))
            for unit in encoder.flush():
                writer.write(unit)
        return index

    def _wanted_groups(self) -> Iterator[NDArray[np.uint8]]:
        """The groups as they come. Raises ``_Stopped`` when the job was given up."""
        last = False
        while not last:
            group = self._groups.get()
            self._check_wanted()
            if group.frames_THWC is not None:
                yield group.frames_THWC
            last = group.last
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise _Stopped


@dataclass(slots=True, kw_only=True)
class VideoJob:
    """Everything that changes while a job runs.

    Attributes:
        cues: (frame, prompt) of the changes to come.
        next_index: number of the first frame of the next group.
    """

    job_id: str
    state: EngineState
    writer: JobWriter
    cues: list[tuple[int, str]]
    frames: int
    next_index: int = 0

    @property
    def complete(self) -> bool:
        """Whether all frames have been made."""
        return self.next_index >= self.frames

    @property
    def ready(self) -> bool:
        """Whether the next group may start."""
        return not self.complete and self.writer.has_room


def open_job(engine: Engine, command: RunJob, emit: Callable[[JobReport], None]) -> VideoJob:
    """Starts a job on the engine. Raises the engine's errors."""
    (_, prompt), *changes = command.cues
    for _, later in changes:
        engine.check_prompt(later)
    size = engine.preset.size(command.size)
    state = engine.open(prompt, size=size.name, seed=command.seed)
    return VideoJob(
        job_id=command.job_id,
        state=state,
        writer=JobWriter(command, size, emit),
        cues=[(frame, text) for frame, text in changes],
        frames=command.frames,
    )


def make_job_group(engine: Engine, job: VideoJob) -> None:
    """Runs the engine for one group and hands the frames on, cut where the video ends."""
    while job.cues and job.cues[0][0] <= job.next_index:
        engine.set_prompt(job.state, job.cues.pop(0)[1])
    frames_THWC = np.asarray(engine.next_group(job.state))[: job.frames - job.next_index]
    job.next_index += len(frames_THWC)
    job.writer.write(frames_THWC, last=job.complete)
