"""Routes about live sessions beside the owner's: their list, and watching one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, StreamingResponse

from ultraflash.server.connection import StreamServer
from ultraflash.server.keys.gate import caller_of
from ultraflash.server.live_media import fragmented_mp4, transport_stream
from ultraflash.server.origins import origin_allowed
from ultraflash.server.outbox import POLICY_VIOLATION, Outbox
from ultraflash.server.protocol import Transport
from ultraflash.server.recording import find_part
from ultraflash.server.seat import Seat
from ultraflash.server.sessions import LiveSession
from ultraflash.server.viewer_connection import VIEWER_MEDIA_BYTES, ViewerConnection, find_for_viewer

NOT_STORED = {"Cache-Control": "no-store"}


def add_sessions(app: FastAPI, server: StreamServer) -> None:
    """Adds the routes to the app."""

    @app.get("/v1/sessions")
    async def sessions(request: Request) -> dict[str, Any]:
        """Live sessions of the caller, without what only the clients that started them may know."""
        caller = caller_of(request)
        own = [one for one in server.sessions if server.allowances.belongs_to(one.session_id, caller)]
        return {"object": "list", "data": [session.summary() for session in own]}

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
