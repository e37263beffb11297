"""``/v1/videos``: jobs over HTTP, after the convention that the ``openai`` client speaks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from ultraflash.server.errors import UnknownVideo, UnsupportedField, VideoGone, VideoNotReady
from ultraflash.server.jobs.bodies import read_body
from ultraflash.server.jobs.ranges import asked_range
from ultraflash.server.jobs.records import Job
from ultraflash.server.jobs.service import JobService
from ultraflash.server.jobs.wire import (
    CreateVideo,
    ExtendVideo,
    FaultBody,
    RemixVideo,
    ReplaySession,
    Video,
    VideoDeleted,
    VideoPage,
    video_of,
)
from ultraflash.server.keys.gate import caller_of

POLL_AFTER_MS = 500
EVENTS_WAIT_S = 1.0
BEATS_WITHOUT_EVENT = 15
JSON_ALONE = ("application/json",)
BODY_KINDS = (*JSON_ALONE, "multipart/form-data")

FAULTS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": FaultBody, "description": "What was wrong, and what would be accepted."},
    503: {
        "model": FaultBody,
        "description": "The engine is loading; Retry-After says when to try again.",
    },
}

SessionId = Annotated[
    str, Path(description="Id of a session.", examples=["session_0123456789abcdef01234567"])
]
VideoId = Annotated[str, Path(description="Id of a video.", examples=["video_0123456789abcdef01234567"])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Requests with the same key and body make one video.",
    ),
]


def video_routes(jobs: JobService) -> APIRouter:
    """All routes of ``/v1/videos``."""

    async def only_own_videos(request: Request) -> None:
        """A video that another caller asked for is not there, whatever the route."""
        video_id = request.path_params.get("video_id")
        if video_id is not None:
            await jobs.check_owner(video_id, caller_of(request))

    router = APIRouter(
        prefix="/v1/videos", tags=["videos"], responses=FAULTS, dependencies=[Depends(only_own_videos)]
    )
    _add_making(router, jobs)
    _add_reading(router, jobs)
    _add_ending(router, jobs)
    return router


def replay_routes(jobs: JobService) -> APIRouter:
    """The route that makes a video of a session."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"], responses=FAULTS)

    @router.post("/{session_id}/replay", openapi_extra=_body_of(ReplaySession, JSON_ALONE))
    async def replay(session_id: SessionId, request: Request, key: Key = None) -> Video:
        """Queue a session as a video: made anew from its seed and its log, at another size if wanted."""
        wish = await read_body(request, ReplaySession, jobs.settings.max_upload_bytes)
        return await jobs.described(await jobs.replay(session_id, wish, key, caller_of(request)))

    return router


def _add_making(router: APIRouter, jobs: JobService) -> None:
    limit = jobs.settings.max_upload_bytes

    @router.post("", openapi_extra=_body_of(CreateVideo))
    async def create(request: Request, key: Key = None) -> Video:
        """Queue a new video."""
        wish = await read_body(request, CreateVideo, limit, file_fields=("input_reference",))
        return await jobs.described(await jobs.create(wish, key, caller_of(request)))

    @router.post("/extensions", openapi_extra=_body_of(ExtendVideo))
    async def extend(request: Request, key: Key = None) -> Video:
        """Queue a completed video with more behind it: its frames first, the same as before, then new ones."""
        caller = caller_of(request)
        wish = await read_body(
            request, ExtendVideo, limit, find_video=partial(jobs.id_of_upload, caller=caller)
        )
        return await jobs.described(await jobs.extend(wish, key, caller))

    @router.post("/edits")
    async def edit(request: Request) -> Video:
        """Not supported: no model here takes a video in."""
        raise UnsupportedField(
            "No model here edits a video. POST /v1/videos/{id}/remix makes one anew from the same seed under another "
            "prompt."
        )

    @router.post("/{video_id}/remix", openapi_extra=_body_of(RemixVideo))
    async def remix(video_id: VideoId, request: Request, key: Key = None) -> Video:
        """Queue a completed video once more, from the same seed, under another prompt."""
        wish = await read_body(request, RemixVideo, limit)
        return await jobs.described(await jobs.remix(video_id, wish.prompt, key, caller_of(request)))


def _add_reading(router: APIRouter, jobs: JobService) -> None:
    @router.get("")
    async def videos(
        request: Request,
        after: Annotated[str | None, Query(description="Id of the last video of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoPage:
        """List videos by the time they were asked for."""
        page, has_more = await run_in_threadpool(
            jobs.store.page,
            after=after,
            limit=limit,
            newest_first=order == "desc",
            caller=caller_of(request),
        )
        data = [video_of(job) for job in page]
        return VideoPage(
            data=data,
            has_more=has_more,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )

    @router.get("/{video_id}")
    async def video(video_id: VideoId, response: Response) -> Video:
        """One video."""
        response.headers["openai-poll-after-ms"] = str(POLL_AFTER_MS)
        return await jobs.described(await run_in_threadpool(jobs.store.get, video_id))

    @router.get(
        "/{video_id}/content",
        response_class=Response,
        responses={
            200: {"content": {"video/mp4": {}}, "description": "The MP4."},
            206: {"content": {"video/mp4": {}}, "description": "The bytes that Range asks for."},
        },
    )
    async def content(
        video_id: VideoId,
        variant: Annotated[str, Query(description='Only "video".')] = "video",
        asked: Annotated[str | None, Header(alias="Range")] = None,
    ) -> Response:
        """The file: 409 while it is not there, 410 when it has gone."""
        if variant != "video":
            raise UnsupportedField("Only the variant 'video' can be had.", param="variant")
        job = await run_in_threadpool(jobs.store.get, video_id)
        return await run_in_threadpool(_content, jobs, job, asked)

    @router.get(
        "/{video_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}},
    )
    async def events(
        video_id: VideoId,
        last_event_id: Annotated[
            int, Header(alias="Last-Event-ID", ge=0, le=2**63 - 1, description="Events behind this one.")
        ] = 0,
    ) -> StreamingResponse:
        """What happens to a video, from the beginning or from where a client left off, until it is over."""
        await run_in_threadpool(jobs.store.get, video_id)
        return StreamingResponse(
            _event_stream(jobs, video_id, last_event_id),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


def _add_ending(router: APIRouter, jobs: JobService) -> None:
    @router.post("/{video_id}/cancel")
    async def cancel(video_id: VideoId) -> Video:
        """Stop a video that is queued or in progress; the work ends with the group that is being made."""
        return video_of(await jobs.cancel(video_id))

    @router.delete("/{video_id}")
    async def delete(video_id: VideoId) -> VideoDeleted:
        """Stop the work and remove the file; the video is forgotten."""
        await jobs.delete(video_id)
        return VideoDeleted(id=video_id)


def _body_of(model: type[BaseModel], kinds: tuple[str, ...] = BODY_KINDS) -> dict[str, Any]:
    """The body in the OpenAPI description; it is read by ``read_body`` since a form and JSON mean the same."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """A schema without references, since those of a body would point outside of the description."""
    if isinstance(schema, list):
        return [_inlined(entry, parts) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _inlined(value, parts) for name, value in schema.items()}


def _content(jobs: JobService, job: Job, asked: str | None) -> Response:
    if job.state != "completed":
        raise VideoNotReady(f"The video is {job.state} ({job.progress}%); its file comes with 'completed'.")
    expired = job.expires_at is not None and job.expires_at <= time.time()
    if expired or not job.has_file:
        raise VideoGone("The file of this video has expired or had to make room; remix it to make it anew.")
    size = jobs.artifacts.size(job.id)
    part = asked_range(asked, size)
    start, length = part or (0, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(length),
        "Content-Disposition": f'attachment; filename="{job.id}.mp4"',
        "ETag": f'"{job.id}"',
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    return StreamingResponse(
        iterate_in_threadpool(jobs.artifacts.read(job.id, start, length)),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type="video/mp4",
    )


async def _event_stream(jobs: JobService, job_id: str, after: int) -> AsyncIterator[str]:
    """The log of a job as server-sent events; a comment now and then keeps the connection open."""
    silent = 0
    while True:
        try:
            # In this order, so that the last event is not missed.
            job = await run_in_threadpool(jobs.store.get, job_id)
        except UnknownVideo:
            yield _event("deleted", {"id": job_id}, None)
            return
        for event in await run_in_threadpool(jobs.store.events, job_id, after=after):
            after, silent = event.number, 0
            yield _event(event.kind, {"id": job_id, "at": int(event.at), **event.data}, event.number)
        if job.over:
            return
        await jobs.dispatcher.changed(EVENTS_WAIT_S)
        silent += 1
        if silent % BEATS_WITHOUT_EVENT == 0:
            yield ": still here\n\n"


def _event(kind: str, data: dict[str, Any], number: int | None) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f"event: {kind}\n{identity}data: {json.dumps(data)}\n\n"
