"""One video job as the worker sees it: the engine's state, and a thread that encodes and writes the file.

Axis letters: T frames, H rows, W columns, C the channels R, G, B.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ultraflash.models.errors import UltraflashError
from ultraflash.server.engine import Engine, EngineState, StreamKeeper, engine_transition
from ultraflash.server.logs import fields
from ultraflash.server.media.annexb import ParameterSets
from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.h264 import AccessUnit, H264Config, H264Encoder
from ultraflash.server.media.mp4 import Mp4Writer
from ultraflash.server.worker.job_checkpoint import Checkpoint, JobJournal, KeptStream, read_checkpoint
from ultraflash.server.worker.messages import (
    JobFailed,
    JobFinished,
    JobProgress,
    JobReport,
    JobStopped,
    RunJob,
)
from ultraflash.server.worker.reference_start import start_from

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

GROUPS_IN_HAND = 1
FAULT = "engine_fault"


class _Stopped(Exception):
    """The job is not wanted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Frames on their way to the encoder; ``last`` ends the file, ``kept`` is the stream behind them."""

    frames_THWC: NDArray[np.uint8]
    last: bool
    kept: KeptStream | None


class JobWriter:
    """Encodes the groups of one job on a thread of its own and writes them into one MP4.

    The file is there under its name only when it is complete. What becomes of the job is reported from the thread.
    """

    def __init__(
        self,
        command: RunJob,
        config: H264Config,
        before: Checkpoint | None,
        emit: Callable[[JobReport], None],
    ) -> None:
        self._job_id = command.job_id
        self._path = Path(command.path)
        self._config = config
        self._before = before
        self._emit = emit
        self._groups: queue.Queue[_Group | None] = queue.Queue(maxsize=GROUPS_IN_HAND)
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

    def write(self, frames_THWC: NDArray[np.uint8], *, last: bool, kept: KeptStream | None = None) -> None:
        """Hands over the next frames, uint8 RGB; after the last ones the file is completed.

        With ``kept``, the stream behind these frames, a checkpoint is made once they are encoded.
        """
        self._groups.put(_Group(frames_THWC=frames_THWC, last=last, kept=kept))

    def stop(self) -> None:
        """Gives the file up, within a frame."""
        self._stopped.set()
        if self.has_room:
            self._groups.put(None)

    def _run(self) -> None:
        try:
            frames = self._write_file()
        except _Stopped:
            self._emit(JobStopped(job_id=self._job_id))
        except Exception:
            log.exception("writing the video failed", extra=fields(job=self._job_id))
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
        encoder = H264Encoder(self._config)
        with Mp4Writer(self._path, track_of(encoder)) as writer, JobJournal(self._path.parent) as journal:
            index = self._write_before(writer, journal)
            for group in self._wanted_groups():
                for frame_HWC in group.frames_THWC:
                    self._check_wanted()
                    _write(encoder.encode(frame_HWC, index), writer, journal)
                    index += 1
                if group.kept is not None or group.last:
                    _write(encoder.flush(), writer, journal)
                if group.kept is not None:
                    journal.keep(group.kept)
                    encoder = H264Encoder(self._config)
                self._emit(JobProgress(job_id=self._job_id, frames=index))
        return index

    def _write_before(self, writer: Mp4Writer, journal: JobJournal) -> int:
        """Takes over what an attempt before this one has encoded; returns the number of frames."""
        if self._before is None:
            return 0
        _write(self._before.units(), writer, journal)
        journal.keep(self._before.kept)
        self._emit(JobProgress(job_id=self._job_id, frames=writer.frames))
        return writer.frames

    def _wanted_groups(self) -> Iterator[_Group]:
        """The groups as they come. Raises ``_Stopped`` when the job was given up."""
        last = False
        while not last:
            group = self._groups.get()
            self._check_wanted()
            if group is not None:
                yield group
                last = group.last

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise _Stopped


def track_of(encoder: H264Encoder) -> VideoTrack:
    """The track that an encoder fills."""
    config = encoder.config
    return VideoTrack(
        width=config.width, height=config.height, fps=config.fps, parameter_sets=encoder.parameter_sets
    )


def _write(units: Iterable[AccessUnit], writer: Mp4Writer, journal: JobJournal) -> None:
    for unit in units:
        writer.write(unit)
        journal.write(unit)


class JobCue(NamedTuple):
    """What becomes of the stream with the first group that starts at or after ``frame``: another prompt, at once or
    blended in over ``groups`` groups, or with ``restarts`` a new stream of the same seed, exactly at ``frame``.
    """

    frame: int
    prompt: str
    transition: Literal["cut", "fade", "blend"] = "cut"
    groups: int = 1
    restarts: bool = False


@dataclass(slots=True, kw_only=True)
class VideoJob:
    """Everything that changes while a job runs.

    Attributes:
        size: name of the picture's size.
        reference: file of the frames that it starts from, and begins anew from; None for none.
        cues_shown: how many of the cues the engine has.
        next_index: number of the first frame of the next group.
        kept_at: when the newest checkpoint was made.
    """

    job_id: str
    state: EngineState
    size: str
    seed: int
    writer: JobWriter
    cues: Sequence[JobCue]
    frames: int
    kept_at: float
    reference: str | None = None
    cues_shown: int = 1
    next_index: int = 0

    @property
    def complete(self) -> bool:
        """Whether all frames have been made."""
        return self.next_index >= self.frames

    @property
    def ready(self) -> bool:
        """Whether the next group may start."""
        return not self.complete and self.writer.has_room

    @property
    def frames_wanted(self) -> int:
        """Frames until the video ends, or the stream begins anew."""
        restarts = (cue.frame for cue in self.cues[self.cues_shown :] if cue.restarts)
        return min(next(restarts, self.frames), self.frames) - self.next_index


def open_job(engine: Engine, command: RunJob, emit: Callable[[JobReport], None], now: float) -> VideoJob:
    """Starts a job on the engine, or goes on with it from its checkpoint. Raises the engine's errors."""
    cues = [JobCue(*cue) for cue in command.cues]
    for cue in cues:
        engine.check_prompt(cue.prompt)
    size = engine.preset.size(command.size)
    config = H264Config.file(width=size.width, height=size.height, fps=command.fps)
    resumed = _resumed(engine, command, config)
    if resumed is None:
        state, checkpoint = engine.open(cues[0].prompt, size=size.name, seed=command.seed), None
        start_from(engine, state, command.reference)
    else:
        state, checkpoint = resumed
    return VideoJob(
        job_id=command.job_id,
        state=state,
        size=size.name,
        seed=command.seed,
        writer=JobWriter(command, config, checkpoint, emit),
        cues=cues,
        reference=command.reference,
        frames=command.frames,
        kept_at=now,
        cues_shown=1 if checkpoint is None else checkpoint.kept.cues_shown,
        next_index=0 if checkpoint is None else checkpoint.kept.frames,
    )


def _resumed(engine: Engine, command: RunJob, config: H264Config) -> tuple[EngineState, Checkpoint] | None:
    """The stream and the frames of an attempt before this one, if both can be gone on with here."""
    if command.resume_from is None or not isinstance(engine, StreamKeeper):
        return None
    checkpoint = read_checkpoint(Path(command.resume_from))
    if checkpoint is None:
        return None
    first = next(checkpoint.units())
    if ParameterSets.find(first.data) != H264Encoder(config).parameter_sets:
        log.warning("starting over, since the encoder has changed", extra=fields(job=command.job_id))
        return None
    try:
        state = engine.load_stream(checkpoint.kept.state)
    except UltraflashError as error:
        log.warning(
            "starting over, since the stream cannot be gone on with: %s",
            error,
            extra=fields(job=command.job_id),
        )
        return None
    log.info("going on at frame %d", checkpoint.kept.frames, extra=fields(job=command.job_id))
    return state, checkpoint


def make_job_group(engine: Engine, job: VideoJob, *, now: float, checkpoint_s: float) -> None:
    """Runs the engine for one group and hands the frames on, cut where the video ends or the stream begins anew."""
    _follow_cues(engine, job)
    frames_THWC = np.asarray(engine.next_group(job.state))[: job.frames_wanted]
    job.next_index += len(frames_THWC)
    kept = None
    # The end may come within the next group, and an extension goes on from the last checkpoint.
    due = now - job.kept_at >= checkpoint_s or job.next_index + 2 * len(frames_THWC) >= job.frames
    if isinstance(engine, StreamKeeper) and due and not job.complete:
        state = engine.save_stream(job.state)
        kept = KeptStream(state=state, frames=job.next_index, cues_shown=job.cues_shown)
        job.kept_at = now
    job.writer.write(frames_THWC, last=job.complete, kept=kept)


def _follow_cues(engine: Engine, job: VideoJob) -> None:
    """Gives the engine what is due before the next group."""
    while job.cues_shown < len(job.cues) and job.cues[job.cues_shown].frame <= job.next_index:
        cue = job.cues[job.cues_shown]
        if cue.restarts:
            job.state = engine.open(cue.prompt, size=job.size, seed=job.seed)
            start_from(engine, job.state, job.reference)
        else:
            engine.set_prompt(
                job.state, cue.prompt, transition=engine_transition(cue.transition), groups=cue.groups
            )
        job.cues_shown += 1
