"""What ``/v1/videos`` takes and gives, as clients see it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ultraflash.server.jobs.records import Job, JobState

MAX_SEED = 2**63 - 1
MAX_FPS = 60
MAX_FRAMES = 1_000_000
MAX_PTS_US = 1e15
MAX_SPREAD_GROUPS = 64
MAX_REPLAY_EVENTS = 1000


def _as_text(value: Any) -> Any:
    """Clients send the seconds as text by convention, and as a number by nature."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Seconds = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=32, description='Length in seconds, such as "4" or "2.5".', examples=["4"]),
]
Prompt = Annotated[
    str, Field(min_length=1, description="What to show.", examples=["snowy mountains at dawn"])
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateVideo(_Request):
    """A new video."""

    prompt: Prompt
    model: str | None = Field(default=None, description="The loaded model; see /v1/models.")
    seconds: Seconds | None = Field(
        default=None, description="Length; 4 if neither it nor num_frames is given."
    )
    size: str | None = Field(
        default=None,
        description='"WxH" or the name of a size of the model; see /v1/capabilities. "auto" is its default.',
        examples=["auto"],
    )
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same video; else drawn."
    )
    fps: int | None = Field(
        default=None, ge=1, le=MAX_FPS, description="Playback rate; the model's own if absent."
    )
    num_frames: int | None = Field(
        default=None, ge=1, le=MAX_FRAMES, description="Length, instead of seconds."
    )
    negative_prompt: str | None = Field(default=None, description="Reserved; no model here uses one.")
    input_reference: Any = Field(
        default=None,
        description="What the video starts from: a PNG, JPEG or WebP picture or a short clip, as a file in a form, or "
        'as a data URL, alone or as {"image_url": ...}.',
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"image_url": {"type": "string"}},
                    "required": ["image_url"],
                },
                {"type": "null"},
            ]
        },
    )


class RemixVideo(_Request):
    """A completed video once more, from the same seed, under another prompt."""

    prompt: Prompt


class VideoReference(_Request):
    """A video on this server."""

    id: str = Field(examples=["video_0123456789abcdef01234567"])


class ExtendVideo(_Request):
    """A completed video and its continuation, in one file."""

    prompt: Prompt
    seconds: Seconds = Field(description="Length of what is added.")
    video: VideoReference


class ReplayEvent(_Request):
    """One entry of a session's log."""

    first_pts_us: float = Field(ge=0, le=MAX_PTS_US, description="Of the first frame that it shows in.")
    group: int = Field(ge=0, description="Number of that frame's group in the engine's stream.")
    prompt: str | None = None
    size: str | None = None
    sr_share: float = Field(
        default=1.0, gt=0, le=1, description="Of the attention of super-resolution; a replay keeps all of it."
    )
    transition: Literal["cut", "fade", "blend"] = "cut"
    groups: int = Field(
        default=1, ge=1, le=MAX_SPREAD_GROUPS, description="Over which a fade or a blend is spread."
    )
    restarted: bool = Field(default=False, description="A new stream of the same seed begins.")

    @model_validator(mode="after")
    def _a_cut_is_not_spread(self) -> ReplayEvent:
        if self.transition == "cut" and self.groups > 1:
            raise ValueError("a cut has groups 1; more take the transition 'fade' or 'blend'")
        return self


class ReplayLog(_Request):
    """What ``session.done`` has as ``replay``, and ``session.json`` of a recording beside other fields."""

    model: str
    seed: int = Field(ge=0, le=MAX_SEED)
    fps: int = Field(ge=1, le=MAX_FPS)
    frames: int = Field(ge=0, description="Frames that the session had.")
    events: list[ReplayEvent] = Field(min_length=1, max_length=MAX_REPLAY_EVENTS)
    image: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Name that the picture has here which the session started from.",
    )


class ReplaySession(_Request):
    """A session once more, as a video."""

    replay: ReplayLog | None = Field(
        default=None, description="The session's log; not needed while the server knows the session."
    )
    token: str | None = Field(
        default=None, description="The session's resume_token, or that of its recording; without replay."
    )
    size: str | None = Field(
        default=None,
        description='"WxH" or the name of a size of the model; the largest that the session had if absent.',
    )
    seconds: Seconds | None = Field(default=None, description="Length; that of the session if absent.")


class VideoFault(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class Video(BaseModel):
    """A job and its video."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: JobState
    progress: int = Field(ge=0, le=100)
    created_at: int
    started_at: int | None
    completed_at: int | None = Field(description="When it ended, in whatever way.")
    expires_at: int | None = Field(description="When its file goes away.")
    size: str
    seconds: str = Field(description="Of the whole video.")
    prompt: str
    error: VideoFault | None
    remixed_from_video_id: str | None
    extended_from_video_id: str | None
    seed: int
    fps: int
    num_frames: int
    queue_position: int | None = Field(
        default=None, description="Jobs ahead of this one, while it is queued."
    )
    eta_s: int | None = Field(
        default=None, description="Seconds until it is done, by the speed measured so far."
    )


class VideoPage(BaseModel):
    """Some of the jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None


class VideoDeleted(BaseModel):
    """A job that is forgotten."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Fault(BaseModel):
    """What was wrong with a request."""

    code: str
    message: str
    param: str | None
    type: Literal["invalid_request_error", "server_error"]


class FaultBody(BaseModel):
    """The one shape of errors."""

    error: Fault


def video_of(job: Job, *, queue_position: int | None = None, eta_s: int | None = None) -> Video:
    """A job as clients see it."""
    order = job.order
    fault = (
        None if job.error_code is None else VideoFault(code=job.error_code, message=job.error_message or "")
    )
    return Video(
        id=job.id,
        model=order.model,
        status=job.state,
        progress=job.progress,
        created_at=int(job.created_at),
        started_at=_whole(job.started_at),
        completed_at=_whole(job.completed_at),
        expires_at=_whole(job.expires_at),
        size=f"{order.width}x{order.height}",
        seconds=f"{order.frames / order.fps:.6g}",
        prompt=order.prompt,
        error=fault,
        remixed_from_video_id=job.lineage.remixed_from,
        extended_from_video_id=job.lineage.extended_from,
        seed=order.seed,
        fps=order.fps,
        num_frames=order.frames,
        queue_position=queue_position,
        eta_s=eta_s,
    )


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)
