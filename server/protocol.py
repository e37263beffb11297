"""What is said on the WebSocket ``/v1/stream``: events as JSON text, media as binary with a fixed header.

``PROTOCOL.md`` describes every event on one page; a test keeps it in step with the models here. Unknown events
and unknown fields are errors, so that a misspelled option is never silently ignored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ultraflash.server.errors import (
    BadJson,
    InvalidField,
    MissingField,
    ProtocolError,
    UnknownEvent,
    UnknownField,
)

PROTOCOL_VERSION = 1
MAX_SEED = 2**63 - 1
MAX_TEXT = 16_384
MAX_IMAGE_TEXT = 2**26
MAX_EVENT_ID = 128
DEFAULT_SPREAD = {"fade": 3, "blend": 4}

Transport = Literal["webcodecs", "fmp4"]
Transition = Literal["cut", "fade", "blend"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
EventId = Annotated[str, Field(min_length=1, max_length=MAX_EVENT_ID)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
ImageText = Annotated[str, Field(max_length=MAX_IMAGE_TEXT)]


class Event(BaseModel):
    """Base of all events: immutable, strict about types, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SessionAuthenticate(Event):
    """Shows an API key: for clients that cannot set a header, before anything else."""

    type: Literal["session.authenticate"] = "session.authenticate"
    # Never in a representation, which a log might show.
    key: Annotated[str, Field(max_length=256, repr=False)]


class SessionStart(Event):
    """Starts the one session of a connection."""

    type: Literal["session.start"] = "session.start"
    prompt: Text
    negative: Text | None = None
    preset: Annotated[str, Field(max_length=256)] | None = None
    size: Annotated[str, Field(max_length=32)] = "auto"
    fps: Annotated[int, Field(ge=1, le=60)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    transport: Transport = "webcodecs"
    codecs: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)] | None = None
    # Too long for a representation. A server keeps the id of what it has read instead.
    image: ImageText | None = Field(default=None, repr=False)
    record: bool = False
    max_frames: Annotated[int, Field(ge=1)] | None = None


class PromptUpdate(Event):
    """Changes the prompt from the next group on: at once, or over some groups."""

    type: Literal["prompt.update"] = "prompt.update"
    prompt: Text
    event_id: EventId
    transition: Transition = "cut"
    groups: Annotated[int, Field(ge=1, le=64)] | None = None

    @property
    def spread(self) -> int:
        """Groups over which the prompt changes."""
        return 1 if self.transition == "cut" else self.groups or DEFAULT_SPREAD[self.transition]


class SessionControl(Event):
    """Changes the size, the bitrate, or pauses and resumes."""

    type: Literal["session.control"] = "session.control"
    event_id: EventId
    size: Annotated[str, Field(max_length=32)] | None = None
    paused: bool | None = None
    bitrate: Annotated[int, Field(ge=100_000, le=100_000_000)] | None = None


class PlaybackAck(Event):
    """Says what the viewer has seen; the server generates only a bounded time ahead of it."""

    type: Literal["playback.ack"] = "playback.ack"
    seq: Annotated[int, Field(ge=0, lt=2**32)]
    pts_us: Seconds
    buffered_ms: Seconds = 0.0
    dropped: Annotated[int, Field(ge=0, lt=2**53)] = 0


class KeyframeRequest(Event):
    """Asks for a keyframe as soon as possible."""

    type: Literal["keyframe.request"] = "keyframe.request"


class SessionPing(Event):
    """Answered by ``session.pong``, which gives ``t`` back."""

    type: Literal["session.ping"] = "session.ping"
    t: Annotated[float, Field(allow_inf_nan=False)] | None = None


class SessionStop(Event):
    """Ends the session; ``session.done`` follows."""

    type: Literal["session.stop"] = "session.stop"


class SessionResume(Event):
    """Comes back to a session after a lost connection."""

    type: Literal["session.resume"] = "session.resume"
    session_id: Annotated[str, Field(max_length=128)]
    resume_token: Annotated[str, Field(max_length=128)]
    last_pts_us: Seconds | None = None


class QueueStatus(Event):
    """Place in the queue of sessions waiting for room."""

    type: Literal["queue.status"] = "queue.status"
    position: int
    depth: int
    eta_s: float | None = None


class SessionStarted(Event):
    """The session runs; media follows."""

    type: Literal["session.started"] = "session.started"
    session_id: str
    codec: str
    container: Literal["annexb", "fmp4"]
    width: int
    height: int
    fps: int
    seed: int
    model: str
    viewer_token: str | None = None
    resume_token: str | None = None


class StreamConfig(Event):
    """Describes the media of one generation, and comes before its first frame."""

    type: Literal["stream.config"] = "stream.config"
    generation: int
    codec: str
    container: Literal["annexb", "fmp4"]
    size: str
    width: int
    height: int
    fps: int


class PromptApplied(Event):
    """Names the first frame that shows a changed prompt."""

    type: Literal["prompt.applied"] = "prompt.applied"
    event_id: str
    first_pts_us: float


class QualityChanged(Event):
    """The size, its detail or the share of the bitrate has changed, and why; a share that is left out is 1."""

    type: Literal["quality.changed"] = "quality.changed"
    size: str
    reason: str
    sr_share: float | None = None
    bitrate_share: float | None = None


class Stats(Event):
    """Once a second: speed, rate and the share of its ceiling, lead over the playhead, groups that were late,
    milliseconds a frame by stage, work left out, caches."""

    type: Literal["stats"] = "stats"
    generated_fps: float
    encoded_kbps: float
    bitrate_share: float
    ahead_ms: float
    deadline_misses: int
    stages: dict[str, float]
    steps_saved: int
    refreshes_skipped: int
    cache_occupancy: dict[str, float]


class SessionResumed(Event):
    """The stream goes on after an interruption."""

    type: Literal["session.resumed"] = "session.resumed"
    session_id: str
    first_pts_us: float
    state: Literal["restarted", "restored", "continued", "rejoined"]


class SessionDone(Event):
    """The last event of a session."""

    type: Literal["session.done"] = "session.done"
    reason: str
    frames: int
    replay: dict[str, Any] | None = None
    recording: list[str] | None = None


class ErrorEvent(Event):
    """Something was refused or failed."""

    type: Literal["error"] = "error"
    code: str
    message: str
    retryable: bool
    event_id: str | None = None


class SessionPong(Event):
    """Answer to ``session.ping``."""

    type: Literal["session.pong"] = "session.pong"
    server_ms: float
    t: float | None = None


ClientEvent = (
    SessionAuthenticate
    | SessionStart
    | PromptUpdate
    | SessionControl
    | PlaybackAck
    | KeyframeRequest
    | SessionPing
    | SessionStop
    | SessionResume
)
ServerEvent = (
    QueueStatus
    | SessionStarted
    | StreamConfig
    | PromptApplied
    | QualityChanged
    | Stats
    | SessionResumed
    | SessionDone
    | ErrorEvent
    | SessionPong
)
CLIENT_EVENTS: Mapping[str, type[Event]] = {
    cls.model_fields["type"].default: cls for cls in get_args(ClientEvent)
}
SERVER_EVENTS: Mapping[str, type[Event]] = {
    cls.model_fields["type"].default: cls for cls in get_args(ServerEvent)
}


def client_adapter() -> TypeAdapter[ClientEvent]:
    """Validator of the union of client events, told apart by ``type``."""
    return TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def server_adapter() -> TypeAdapter[ServerEvent]:
    """Validator of the union of server events, told apart by ``type``."""
    return TypeAdapter(Annotated[ServerEvent, Field(discriminator="type")])


def json_schema() -> dict[str, Any]:
    """JSON Schema of both directions: ``{"version", "client", "server"}``."""
    return {
        "version": PROTOCOL_VERSION,
        "client": client_adapter().json_schema(),
        "server": server_adapter().json_schema(mode="serialization"),
    }


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse_client_event(text: str) -> ClientEvent:
    """Reads one text frame. Raises a ``ProtocolError`` that names the event or field and what is accepted."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadJson(f"This text frame is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise BadJson('A text frame must be one JSON object such as {"type": "session.ping"}.')
    event_id = data.get("event_id")
    event_id = event_id[:MAX_EVENT_ID] if isinstance(event_id, str) else None
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        known = ", ".join(CLIENT_EVENTS)
        raise UnknownEvent(
            f"Unknown event type {_shown(kind)}. Known: {known}.", param="type", event_id=event_id
        )
    cls = CLIENT_EVENTS[kind]
    try:
        return cls.model_validate(data)  # type: ignore[return-value]
    except ValidationError as error:
        raise _field_error(cls, error.errors(include_url=False)[0], event_id) from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else text[:61] + "..."


def _field_error(cls: type[Event], detail: ErrorDetails, event_id: str | None) -> ProtocolError:
    field = ".".join(str(part) for part in detail["loc"])[:64] or "type"
    kind = cls.model_fields["type"].default
    if detail["type"] == "extra_forbidden":
        names = ", ".join(name for name in cls.model_fields if name != "type")
        accepted = f"Its fields are: {names}." if names else "It has no fields."
        return UnknownField(f"{kind} has no field {field!r}. {accepted}", param=field, event_id=event_id)
    if detail["type"] == "missing":
        return MissingField(f"{kind} needs the field {field!r}.", param=field, event_id=event_id)
    info = cls.model_fields.get(field)
    was = _shown(detail["input"]) if info is None or info.repr else "unusable"
    message = f"{kind}: {field!r} was {was}. {detail['msg']}."
    return InvalidField(message, param=field, event_id=event_id)


def dump_event(event: Event) -> str:
    """JSON of an event; optional fields without a value are left out."""
    return event.model_dump_json(exclude_none=True)


class MediaFlags(IntFlag):
    """Bits of the media header."""

    KEY = 1
    INIT = 2
    DISCONTINUITY = 4


_HEADER = struct.Struct("<BBHIdd")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaHeader:
    """The 24 bytes, little-endian, before every media payload.

    Attributes:
        flags: key, init, discontinuity.
        generation: of the ``stream.config`` that describes this payload, modulo 65536.
        seq: number of the frame in the stream, from 0; an init segment carries that of the frame after it.
        pts_us: presentation time in microseconds, ``seq * 1e6 / fps``.
        capture_ms: Unix time in milliseconds at which the frame left the networks.
    """

    flags: MediaFlags
    generation: int
    seq: int
    pts_us: float
    capture_ms: float

    def pack(self) -> bytes:
        """The header as 24 bytes."""
        return _HEADER.pack(
            PROTOCOL_VERSION, self.flags, self.generation & 0xFFFF, self.seq, self.pts_us, self.capture_ms
        )

    @classmethod
    def unpack(cls, data: bytes) -> MediaHeader:
        """Reads the first 24 bytes of ``data``. Raises ``InvalidField`` on anything else."""
        if len(data) < HEADER_BYTES:
            raise InvalidField(f"A media frame starts with {HEADER_BYTES} bytes of header, not {len(data)}.")
        version, flags, generation, seq, pts_us, capture_ms = _HEADER.unpack_from(data)
        if version != PROTOCOL_VERSION:
            raise InvalidField(f"Media header version {version} is unknown; this is {PROTOCOL_VERSION}.")
        return cls(
            flags=MediaFlags(flags), generation=generation, seq=seq, pts_us=pts_us, capture_ms=capture_ms
        )
