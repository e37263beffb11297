"""Messages between the web process and its worker: flat, typed, and only of types that msgpack knows.

Commands go to the worker, reports come from it. Reading is strict: an unknown kind or field is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import msgpack

from ultraflash.models.errors import UnknownSize
from ultraflash.models.prompt_text import plain_prompt

# The size of a stream that leaves it to the server.
AUTO = "auto"


class NamedSize(NamedTuple):
    """A picture size of the loaded preset, in pixels."""

    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """The first command: what to load and how far to work ahead.

    Attributes:
        engine: factory, ``module:attribute``.
        preset: name or path; None for the best that the machine has weights and memory for.
        size: the largest of streams that ask for ``auto``; any that there is memory for if None.
        adapt_named_sizes: whether a stream that asked for a size by name may get a smaller one under load.
        raise_after_s: time for which a larger size must have fitted before a stream gets it.
        ahead_ms: media generated at most beyond the playhead.
        ack_pause_s, ack_end_s: silence after which a stream rests, and ends.
        paused_end_s: longest pause by the owner.
        job_patience_s: longest time that live streams keep a job from its next group.
        job_checkpoint_s: time between two checkpoints of a job.
        snapshots: folder, in memory, for the newest states of live streams; None keeps none.
        snapshot_share: part of a stream's work that may go into keeping it.
        snapshot_bytes: largest state that is kept.
        replica: number of the server among several; None for one alone.
        log_level, log_format, trace_exporter, trace_endpoint, trace_folder: as in the settings.
    """

    engine: str
    preset: str | None
    size: str | None
    adapt_named_sizes: bool
    raise_after_s: float
    ahead_ms: float
    ack_pause_s: float
    ack_end_s: float
    paused_end_s: float
    job_patience_s: float
    job_checkpoint_s: float
    snapshots: str | None
    snapshot_share: float
    snapshot_bytes: int
    replica: int | None = None
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    trace_exporter: str = "none"
    trace_endpoint: str | None = None
    trace_folder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Starts a stream at frame ``first_index``, which is above 0 where it replaces one that was lost.

    Attributes:
        asked_size: what its owner asked for, ``auto`` included.
        size: with which it begins; ``auto`` leaves that to the worker.
        sr_share: of the attention of super-resolution, where it goes on from a snapshot.
        restore: whether to go on from a snapshot, if there is one.
        changes: the newest entries of the session's log, with ``group`` and ``prompt``, ``transition``, ``groups`` or
            ``size``; those that a snapshot does not know yet are made again in the groups in which they were made.
        reference: a file with the frames to start from, as ``ReadReference`` has them written; None for none.
        trace: context of the session's span, under which the worker's spans go.
    """

    stream_id: str
    prompt: str
    asked_size: str
    size: str
    seed: int
    fps: int | None
    bitrate: int | None
    max_frames: int | None
    paused: bool
    first_index: int
    generation: int
    playhead_us: float
    restore: bool
    changes: list[dict[str, Any]]
    sr_share: float = 1.0
    reference: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPrompt:
    """Changes the prompt from the next group on, at once or, with ``fade`` and ``blend``, over ``groups`` groups."""

    stream_id: str
    event_id: str
    prompt: str
    transition: Literal["cut", "fade", "blend"]
    groups: int
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlStream:
    """Changes what is not None."""

    stream_id: str
    event_id: str
    size: str | None
    paused: bool | None
    bitrate: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AckPlayback:
    """The owner has seen everything up to ``pts_us``."""

    stream_id: str
    pts_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptBitrate:
    """The stream may use this share, 0 to 1, of its bitrate from the next frame on."""

    stream_id: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKeyframe:
    """The next encoded frame shall be a keyframe."""

    stream_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStream:
    """Forgets a stream; nothing is reported for it any more."""

    stream_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """Makes a video file.

    Attributes:
        cues: [frame, prompt, transition, groups, restarts] in order, the first one at frame 0; a prompt is in force
            from the first group that starts at or after its frame. See ``JobCue``.
        size: a name or ``WxH``.
        frames: number of frames.
        path: the file to write, in an empty folder that exists.
        reference: a file with the frames to start from, as ``ReadReference`` has them written; None for none.
        resume_from: a folder that an attempt before this one may have left a checkpoint in.
    """

    job_id: str
    cues: list[list[Any]]
    size: str
    seed: int
    fps: int
    frames: int
    path: str
    reference: str | None
    resume_from: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelJob:
    """Gives a job up after the group in work; unknown ones are over already."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPrompt:
    """Asks whether the engine takes a prompt."""

    check_id: int
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReference:
    """Decodes an upload into frames that a stream can start from.

    Attributes:
        path, demuxer: the upload, and FFmpeg's demuxer for it.
        target: the file to write, as numpy stores an array.
        max_pixels, max_frames, max_seconds: of what is read.
        cpu_s: seconds of processor time that it may take.
    """

    check_id: int
    path: str
    demuxer: str
    target: str
    max_pixels: int
    max_frames: int
    max_seconds: float
    cpu_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Ends the worker after the group in work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProgress:
    """How far loading has come, 0 to 1."""

    stage: str
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    """The engine is warm; ``sizes`` are (name, width, height), ``frame_seconds`` what a frame of each costs."""

    model: str
    fps: int
    sizes: list[list[Any]]
    default_size: str
    max_prompt_chars: int
    frame_seconds: dict[str, float]

    def size(self, text: str) -> NamedSize:
        """A size by name or ``WxH``; the default one for ``auto``. Raises ``UnknownSize``, which says what there is."""
        wanted = text.strip().lower()
        wanted = self.default_size.lower() if wanted == AUTO else wanted
        found = [NamedSize(*size) for size in self.sizes]
        for size in found:
            if wanted in (size.name.lower(), f"{size.width}x{size.height}"):
                return size
        choices = ", ".join(f"{size.name} ({size.width}x{size.height})" for size in found)
        raise UnknownSize(f"{self.model} cannot make the size {text!r}; it makes {choices}.", param="size")

    def check_prompt(self, prompt: str) -> str:
        """The prompt as far as it can be checked without the engine. Raises ``EmptyPrompt`` or ``PromptTooLong``."""
        return plain_prompt(prompt, model=self.model, max_chars=self.max_prompt_chars)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsMeasured:
    """Once a second: what a frame of each size costs now, in seconds of the worker's loop."""

    frame_seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Once a second, where there is a GPU: [bytes in use, bytes in total] by its name."""

    gpus: dict[str, list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed:
    """The engine cannot be loaded, and trying again will not help."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """A stream was accepted. Its next frame is ``first_index``; ``restored`` is whether that continues the picture."""

    stream_id: str
    codec: str
    size: str
    width: int
    height: int
    fps: int
    first_index: int
    restored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused:
    """A command that the engine did not take; ``event_id`` is None for the opening of the stream."""

    stream_id: str
    event_id: str | None
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStarted:
    """Comes before the first packet of each generation."""

    stream_id: str
    generation: int
    codec: str
    size: str
    width: int
    height: int
    fps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShown:
    """The first frame of a changed prompt, and the number of its group in the engine's state."""

    stream_id: str
    event_id: str
    first_pts_us: float
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeShown:
    """The size has changed from a group on.

    Attributes:
        event_id: of the control that asked for it; empty where nobody did.
        sr_share: of the attention of super-resolution that is kept.
        asked_size: what the owner has asked for last.
        reason: ``requested``, ``overload`` or ``recovered``.
    """

    stream_id: str
    event_id: str
    size: str
    asked_size: str
    reason: str
    first_pts_us: float
    group: int
    sr_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPacket:
    """One encoded frame, Annex-B; the fields are those of the media header."""

    stream_id: str
    flags: int
    generation: int
    seq: int
    pts_us: float
    capture_ms: float
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStats:
    """Once a second: see ``Stats`` of the protocol; ``stage_seconds`` are sums since the stream was opened."""

    stream_id: str
    generated_fps: float
    encoded_kbps: float
    ahead_ms: float
    deadline_misses: int
    stages: dict[str, float]
    stage_seconds: dict[str, float]
    steps_saved: int
    refreshes_skipped: int
    cache_occupancy: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """The stream is over; no packet follows."""

    stream_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """``frames`` of a job are encoded."""

    job_id: str
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """The file of a job is complete at ``path``."""

    job_id: str
    frames: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """A job cannot be done, and trying again will not help."""

    job_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStopped:
    """A job was given up as told."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChecked:
    """The engine takes a prompt if ``code`` is None."""

    check_id: int
    code: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRead:
    """The frames of an upload are there if ``code`` is None."""

    check_id: int
    code: str | None
    message: str


Command = (
    Configure
    | OpenStream
    | SetPrompt
    | ControlStream
    | AckPlayback
    | AdaptBitrate
    | RequestKeyframe
    | CloseStream
    | RunJob
    | CancelJob
    | CheckPrompt
    | ReadReference
    | Shutdown
)
StreamReport = (
    StreamOpened
    | CommandRefused
    | GenerationStarted
    | PromptShown
    | SizeShown
    | MediaPacket
    | StreamStats
    | StreamEnded
)
JobReport = JobProgress | JobFinished | JobFailed | JobStopped | PromptChecked | ReferenceRead
Report = WorkerProgress | WorkerReady | WorkerFailed | CostsMeasured | GpuMemory | StreamReport | JobReport
_KINDS: Mapping[str, type] = {cls.__name__: cls for cls in (*get_args(Command), *get_args(Report))}


def encode_message(message: Command | Report) -> bytes:
    """A message as msgpack: ``[kind, {field: value}]``."""
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    return bytes(msgpack.packb([type(message).__name__, fields]))


def decode_message(data: bytes) -> Command | Report:
    """Reads what ``encode_message`` wrote. Raises ``ValueError`` for anything else."""
    try:
        kind, fields = msgpack.unpackb(data)
        return _KINDS[kind](**fields)
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"Not a message between web process and worker: {error}") from error
