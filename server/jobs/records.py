"""What is remembered of a job: the order, what became of it, and the events on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
)

from ultraflash.server.database import METADATA

JobState = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
WAITING: tuple[JobState, ...] = ("queued", "in_progress")
FINAL: tuple[JobState, ...] = ("completed", "failed", "cancelled")
# Estimated for the room that a job is promised; natural pictures at the quality of files take about half.
BYTES_PER_PIXEL = 0.04

_number = BigInteger().with_variant(Integer, "sqlite")

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("model", Text, nullable=False),
    Column("cues", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("fps", Integer, nullable=False),
    Column("frames", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("remixed_from", String(64)),
    Column("extended_from", String(64)),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("completed_at", Float),
    Column("expires_at", Float),
    Column("frames_done", Integer, nullable=False),
    Column("furthest_frame", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("owner", String(128)),
    Column("lease_until", Float),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("room_bytes", BigInteger, nullable=False),
    Column("has_file", Boolean, nullable=False),
    Column("file_sha256", String(64), index=True),
    Column("idempotency_key", String(255), unique=True),
    Column("request_hash", String(64)),
    Column("key_id", String(32), index=True),
    Index("jobs_by_state", "state", "number"),
)

EVENTS = Table(
    "job_events",
    METADATA,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("job_id", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("data", Text, nullable=False),
    Index("job_events_by_job", "job_id", "number"),
)

JOB_TABLES = (JOBS, EVENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A prompt in force from the first group that starts at or after ``frame``.

    Attributes:
        transition, groups: how it comes: at once, or by a fade or a blend over so many groups.
        restarts: the engine's stream begins anew at ``frame``, as one did whose worker had died.
    """

    frame: int
    prompt: str
    transition: Literal["cut", "fade", "blend"] = "cut"
    groups: int = 1
    restarts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Frames that a video starts from, in the place of the videos: digest of what they were read from, and bytes."""

    id: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything that decides the pictures of a job: the same order gives the same frames, always.

    Attributes:
        cues: prompts in their order; the first one is at frame 0.
        width, height: a size of the model.
        frames: number of frames.
        seed: 0 .. 2**63 - 1.
        reference: what it starts from.
    """

    model: str
    cues: tuple[Cue, ...]
    width: int
    height: int
    fps: int
    frames: int
    seed: int
    reference: Reference | None = None

    @property
    def prompt(self) -> str:
        """The newest prompt."""
        return self.cues[-1].prompt

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, each once."""
        return tuple(dict.fromkeys(cue.prompt for cue in self.cues))

    @property
    def room_bytes(self) -> int:
        """Room that the file is expected to need at most, with what it starts from."""
        reference = 0 if self.reference is None else self.reference.bytes
        return round(self.frames * self.width * self.height * BYTES_PER_PIXEL) + 4096 + reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Which job an order comes from."""

    remixed_from: str | None = None
    extended_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as it is now; times are Unix seconds.

    Attributes:
        number: place in the order of arrival.
        frames_done: frames that are encoded in this attempt.
        attempts: lives of the worker that ended on it without getting further.
        owner: the claim of the server that runs it.
        room_bytes: size of the file, or the room promised to it before.
        has_file: whether the video can be downloaded.
        key_id: the API key that it was asked for with; None where none was needed.
    """

    number: int
    id: str
    key_id: str | None
    state: JobState
    order: Order
    lineage: Lineage
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    frames_done: int
    attempts: int
    owner: str | None
    error_code: str | None
    error_message: str | None
    room_bytes: int
    has_file: bool

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL

    @property
    def progress(self) -> int:
        """Percent; 100 only when the file is there."""
        if self.state == "completed":
            return 100
        return min(99, self.frames_done * 100 // self.order.frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One line of a job's log; numbers grow."""

    number: int
    at: float
    kind: str
    data: Mapping[str, Any]


WITH_REFERENCE = "{"
"""How a script begins that has a reference."""


def script_json(order: Order) -> str:
    """Cues and reference as they are stored: ``[[frame, prompt], ...]``, behind a prompt what is not as usual, and
    all of it in an object where there is a reference."""
    cues = [[cue.frame, cue.prompt, *_unusual(cue)] for cue in order.cues]
    if order.reference is None:
        return json.dumps(cues, ensure_ascii=True)
    return json.dumps({"cues": cues, "reference": asdict(order.reference)}, ensure_ascii=True)


def _unusual(cue: Cue) -> list[dict[str, Any]]:
    usual = Cue(frame=cue.frame, prompt=cue.prompt)
    names = ("transition", "groups", "restarts")
    fields = {name: getattr(cue, name) for name in names if getattr(cue, name) != getattr(usual, name)}
    return [fields] if fields else []


def script_of(text: str) -> tuple[tuple[Cue, ...], Reference | None]:
    """Reads what ``script_json`` wrote."""
    stored = json.loads(text)
    reference = Reference(**stored["reference"]) if isinstance(stored, dict) else None
    cues = stored["cues"] if isinstance(stored, dict) else stored
    return tuple(
        Cue(frame=frame, prompt=prompt, **(unusual[0] if unusual else {})) for frame, prompt, *unusual in cues
    ), reference


def job_of(row: RowMapping) -> Job:
    """A stored row as a job."""
    cues, reference = script_of(row["cues"])
    return Job(
        number=row["number"],
        id=row["id"],
        key_id=row["key_id"],
        state=row["state"],
        order=Order(
            model=row["model"],
            cues=cues,
            width=row["width"],
            height=row["height"],
            fps=row["fps"],
            frames=row["frames"],
            seed=row["seed"],
            reference=reference,
        ),
        lineage=Lineage(remixed_from=row["remixed_from"], extended_from=row["extended_from"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        expires_at=row["expires_at"],
        frames_done=row["frames_done"],
        attempts=row["attempts"],
        owner=row["owner"],
        error_code=row["error_code"],
        error_message=row["error_message"],
        room_bytes=row["room_bytes"],
        has_file=row["has_file"],
    )


def event_of(row: RowMapping) -> JobEvent:
    """A stored row as an event."""
    return JobEvent(number=row["number"], at=row["at"], kind=row["kind"], data=json.loads(row["data"]))
