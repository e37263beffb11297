"""Routes about live sessions beside the owner's: their list, and watching one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse

from ultraflash.server.keys.gate import caller_of
from ultraflash.server.live_media import fragmented_mp4, transport_stream
from ultraflash.server.origins import origin_allowed
from ultraflash.server.outbox import POLICY_VIOLATION, Outbox
from ultraflash.server.protocol import Transport
from ultraflash.server.recording import find_part
from ultraflash.server.seat import Seat
from ultraflash.server.session_store import StoredSession
from ultraflash.server.sessions import LiveSession
from ultraflash.server.stream_server import StreamServer
from ultraflash.server.viewer_connection import VIEWER_MEDIA_BYTES, ViewerConnection, find_for_viewer

NOT_STORED = {"Cache-Control": "no-store"}


def add_sessions(app: FastAPI, server: StreamServer) -> None:
    """Adds the routes to the app."""

    @app.get("/v1/sessions")
    async def sessions(
        request: Request,
        state: Literal["live", "ended", "interrupted"] = "live",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """The caller's live sessions, or the newest of its that are over, without what their owners alone may know."""
        key_id = caller_of(request).key_id
        if state == "live":
            own = [session for session in server.sessions if session.key_id == key_id]
            return {"object": "list", "data": [session.summary() for session in own]}
        page = partial(server.archive.store.page, state=state, limit=limit, key_id=key_id)
        stored = await run_in_threadpool(page)
        return {"object": "list", "data": [stored_summary(session) for session in stored]}

    @app.get("/v1/sessions/{session_id}")
    def session(request: Request, session_id: str, token: str = "") -> dict[str, Any]:
        """A session, live or stored; with its owner's token also what it takes to make it again."""
        stored = server.archive.find(session_id, key_id=caller_of(request).key_id)
        summary = stored_summary(stored)
        if token:
            stored.owner.check(token)
            summary["replay"] = stored.replay
        return summary

    @app.get("/v1/sessions/{session_id}/recording")
    def recording(session_id: str, token: str = "", part: int = 0) -> FileResponse:
        """A part of a session's recording, for those who have its token; ranges are served."""
        path = find_part(
            server.settings.data.recordings,
            session_id,
            token=token,
            part=part,
            in_progress=server.sessions.is_recording(session_id),
        )
        return FileResponse(path, media_type="video/mp4", filename=f"{session_id}-{path.name}")

    @app.get("/v1/stream/{session_id}/live.mp4")
    async def live_mp4(session_id: str, token: str = "") -> StreamingResponse:
        """A live session as fragmented MP4, from the newest keyframe on."""
        session = find_for_viewer(server, session_id, token)
        return StreamingResponse(
            _watched(session, "fmp4", fragmented_mp4), media_type="video/mp4", headers=NOT_STORED
        )

    @app.get("/v1/stream/{session_id}/live.ts")
    async def live_ts(session_id: str, token: str = "") -> StreamingResponse:
        """A live session as MPEG transport stream, from the newest keyframe on."""
        session = find_for_viewer(server, session_id, token)
        pieces = partial(transport_stream, fps=session.fps)
        return StreamingResponse(
            _watched(session, "webcodecs", pieces), media_type="video/mp2t", headers=NOT_STORED
        )

    @app.websocket("/v1/stream/{session_id}")
    async def watch(
        websocket: WebSocket, session_id: str, token: str = "", transport: Transport = "webcodecs"
    ) -> None:
        """A viewer of a live session; see PROTOCOL.md."""
        await websocket.accept()
        if not origin_allowed(server.settings.http, websocket.headers):
            await websocket.close(POLICY_VIOLATION, "origin not allowed")
            return
        viewer = ViewerConnection(websocket, server, transport)
        viewer.join(session_id, token)
        await viewer.run()


def stored_summary(session: StoredSession) -> dict[str, Any]:
    """What anybody may know of a session that is stored."""
    opened = session.opened
    return {
        "id": session.id,
        "object": "session",
        "model": session.model,
        "state": session.state,
        "reason": session.reason,
        **{name: opened[name] for name in ("size", "width", "height", "fps")},
        "frames": session.frames,
        "seconds": round(session.frames / opened["fps"], 3),
        "created_at": session.created_at,
        "updated_at": session.updated_at,
    }


async def _watched(
    session: LiveSession, transport: Transport, pieces_of: Callable[[Outbox], AsyncIterator[bytes]]
) -> AsyncIterator[bytes]:
    """What a viewer's place gets, for as long as somebody reads it."""
    outbox = Outbox(session.request_key, max_media_bytes=VIEWER_MEDIA_BYTES)
    seat = Seat(outbox, transport)
    session.join(seat)
    try:
        async for piece in pieces_of(outbox):
            yield piece
    finally:
        session.audience.viewer_left(seat)
