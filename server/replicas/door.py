"""The door through which the front looks into a replica. It opens to those who know the replicas' secret alone."""

from __future__ import annotations

import asyncio
import hmac

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ultraflash.server.admission import Admission, Claim, share_of_time
from ultraflash.server.replicas.state import SECRET_HEADER, STATE_PATH, TAKE_OVER_PATH, ReplicaState
from ultraflash.server.services import Services

MEASURE_EVERY_S = 1.0


class ReplicaDoor:
    """ASGI middleware around the app of a replica. Without the secret its paths are as unknown as any others.

    What it says comes from memory: a database that is slow must not make a replica look like one that has gone.
    """

    def __init__(self, app: ASGIApp, *, services: Services, secret: str) -> None:
        self._app = app
        self._services = services
        self._secret = secret
        self._work_before = (0, 0.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] not in (STATE_PATH, TAKE_OVER_PATH):
            await self._app(scope, receive, send)
            return
        shown = Headers(scope=scope).get(SECRET_HEADER, "")
        if not hmac.compare_digest(shown.encode(), self._secret.encode()):
            await self._app(scope, receive, send)
        elif scope["path"] == TAKE_OVER_PATH and scope["method"] == "POST":
            await self._services.server.take_over()
            await Response(status_code=204)(scope, receive, send)
        else:
            await JSONResponse(self._state().model_dump(mode="json"))(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The life of the app, through which the queue of videos is measured again and again."""
        measuring = asyncio.create_task(
            self._services.background.repeat("queue", self._measure, every_s=MEASURE_EVERY_S)
        )
        try:
            await self._app(scope, receive, send)
        finally:
            measuring.cancel()

    async def _measure(self) -> None:
        try:
            self._work_before = await run_in_threadpool(self._services.jobs.store.work_before)
        except Exception:
            # A queue that cannot be seen is no reason for another replica.
            self._work_before = (0, 0.0)
            raise

    def _state(self) -> ReplicaState:
        server, jobs = self._services.server, self._services.jobs
        supervisor, sessions = server.supervisor, server.sessions
        # Before its first worker has said what it makes, a server may have the sessions of one that is gone.
        running = [] if supervisor.ready is None else [session.claim for session in sessions]
        queued, pixels = self._work_before
        trouble = self._services.background.trouble
        return ReplicaState(
            ready=supervisor.is_ready and trouble is None,
            stage=trouble if trouble is not None and supervisor.is_ready else supervisor.status.stage,
            progress=supervisor.status.progress,
            restarts=supervisor.status.restarts,
            sessions=tuple(session.session_id for session in sessions),
            waiting=len(sessions.line),
            share=share_of_time(running, supervisor.frame_seconds),
            eta_s=self._eta_s(running),
            job=jobs.dispatcher.running_id,
            begun=sessions.begun + jobs.dispatcher.begun,
            queued=queued,
            jobs_eta_s=jobs.dispatcher.speed.seconds_for(pixels) if queued else 0.0,
        )

    def _eta_s(self, running: list[Claim]) -> float | None:
        """Seconds until one more stream that is content with the smallest size would begin."""
        server = self._services.server
        ready, line = server.supervisor.ready, server.sessions.line
        if ready is None:
            return None
        if not len(line):
            smallest = Claim(fps=ready.fps, size=None, frames_left=None)
            admission = Admission(server.settings.stream)
            if admission.fits(smallest, running, server.supervisor.frame_seconds):
                return 0.0
        return server.sessions.eta(len(line) + 1)
