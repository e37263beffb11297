"""The front: an ASGI app that relays everything to the replica that it is for, and answers for all of them.

It knows no session and no video: what it needs to know it asks the replicas, so that nothing is lost with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from ultraflash.server.origins import Gate
from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.http_relay import ask_all, not_found, relay
from ultraflash.server.replicas.merged_metrics import merged
from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.socket_relay import SocketRelay
from ultraflash.server.settings import Settings

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OF_A_SESSION = re.compile(r"/v1/(?:sessions|stream)/(session_[0-9a-f]+)(?:/.*)?")
OF_A_VIDEO = re.compile(r"/v1/videos/(video_[0-9a-f]+)(/.*)?")
# Comes back within this time, or has gone.
PATIENCE_S = 30.0
DOOR = "/replica/"


class Front:
    """Routes of the front.

    Args:
        restarts: how many replicas were replaced.
        missing: how many do not run though they should.
        resting: those that have failed too often, by number, and the seconds until they are tried again.
        closing: whether it is being stopped.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        restarts: Callable[[], int],
        missing: Callable[[], int],
        resting: Callable[[], Mapping[int, float]],
        closing: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._restarts = restarts
        self._missing = missing
        self._resting = resting
        self._closing = closing

    def app(self) -> ASGIApp:
        """The app; it holds no state."""
        return Starlette(
            routes=[
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Route("/v1/sessions", self.sessions),
                WebSocketRoute("/v1/stream", self.stream),
                WebSocketRoute("/v1/stream/{session_id}", self.watch),
                Route("/{path:path}", self.anything, methods=METHODS),
            ],
            middleware=[Middleware(Gate, settings=self._settings.http)],
        )

    async def healthz(self, request: Request) -> Response:
        """The front answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether streams can be started on some replica, and how far each has come."""
        seen = await self._directory.look()
        known = [(one.replica.number, one.state) for one in seen if one.state is not None]
        replicas = [
            {"number": number, "ready": state.ready, "stage": state.stage, "sessions": len(state.sessions)}
            for number, state in known
        ]
        replicas += [
            {
                "number": number,
                "ready": False,
                "stage": f"failed too often; tried again in {math.ceil(wait_s)} s",
                "sessions": 0,
            }
            for number, wait_s in self._resting().items()
        ]
        if self._closing():
            body: dict[str, Any] = {"ready": False, "stage": "stopping", "progress": 1.0, "restarts": 0}
        elif any(state.ready for _, state in known):
            return JSONResponse({"ready": True, "replicas": replicas})
        else:
            newest = max((state for _, state in known), key=lambda state: state.progress, default=None)
            body = {
                "ready": False,
                "stage": "starting replicas" if newest is None else newest.stage,
                "progress": 0.0 if newest is None else newest.progress,
                "restarts": 0 if newest is None else newest.restarts,
            }
        retry_after = {"Retry-After": str(self._directory.retry_after_s())}
        return JSONResponse({**body, "replicas": replicas}, status_code=503, headers=retry_after)

    async def metrics(self, request: Request) -> Response:
        """Those of all replicas, by the label ``replica``."""
        answers, refusal = await ask_all(request, self._directory)
        if refusal is not None:
            return refusal
        ready = sum(seen.ready for seen in self._directory.newest)
        page = merged(
            {replica.number: answer.text for replica, answer in answers.items()},
            ready=ready,
            missing=len(self._directory.newest) - ready + self._missing(),
            resting=len(self._resting()),
            restarts=self._restarts(),
        )
        return Response(page, headers={"Content-Type": METRICS_TYPE})

    async def sessions(self, request: Request) -> Response:
        """Live sessions of all replicas; those that are over are in the database, which any replica knows."""
        if request.query_params.get("state", "live") != "live":
            return await relay(request, await self._directory.any_one(), self._directory)
        answers, refusal = await ask_all(request, self._directory)
        if refusal is not None:
            return refusal
        data = [session for answer in answers.values() for session in answer.json()["data"]]
        return JSONResponse({"object": "list", "data": data})

    async def stream(self, websocket: WebSocket) -> None:
        """An owner."""
        await self._socket_relay(websocket).run_owner()

    async def watch(self, websocket: WebSocket) -> None:
        """A viewer."""
        await self._socket_relay(websocket).run_viewer(websocket.path_params["session_id"])

    async def anything(self, request: Request) -> Response:
        """Everything else, but for the door between front and replicas."""
        if request.url.path.startswith(DOOR):
            return not_found()
        return await relay(request, await self._replica_for(request), self._directory)

    async def _replica_for(self, request: Request) -> Replica | None:
        """Who is to answer: the owner of what the path names, where that makes a difference."""
        path = request.url.path
        session, video = OF_A_SESSION.fullmatch(path), OF_A_VIDEO.fullmatch(path)
        owner = None
        if "ticket" in request.query_params or path == "/v1/tickets":
            # Tickets are in the memory of one server.
            return await self._directory.first()
        if session is not None:
            live = path.startswith("/v1/stream/")
            owner = await self._directory.owner_of(session[1], patience_s=PATIENCE_S if live else 0.0)
        elif video is not None and (request.method in ("POST", "DELETE") or video[2] == "/events"):
            owner = await self._directory.worker_on(video[1])
        return owner or await self._directory.any_one()

    def _socket_relay(self, websocket: WebSocket) -> SocketRelay:
        return SocketRelay(
            websocket,
            self._directory,
            resume_s=min(self._settings.stream.resume_s, PATIENCE_S),
            closing=self._closing,
            drain_s=self._settings.replicas.drain_s,
        )
