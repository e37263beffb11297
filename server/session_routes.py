"""Routes about live sessions beside the owner's: their list, and watching one."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, WebSocket

from ultraflash.server.connection import StreamServer
from ultraflash.server.origins import origin_allowed
from ultraflash.server.outbox import POLICY_VIOLATION
from ultraflash.server.protocol import Transport
from ultraflash.server.viewer_connection import ViewerConnection


def add_sessions(app: FastAPI, server: StreamServer) -> None:
    """Adds the routes to the app."""

    @app.get("/v1/sessions")
    async def sessions() -> dict[str, Any]:
        """Live sessions, without what only their owners may know."""
        return {"object": "list", "data": [session.summary() for session in server.sessions]}

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
