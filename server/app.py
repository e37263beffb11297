"""The web process as an ASGI app: the stream, the small REST surface, the page. It never computes a picture."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from ultraflash.models.errors import UltraflashError
from ultraflash.server.background_tasks import BackgroundTasks
from ultraflash.server.connection import Connection
from ultraflash.server.error_response import error_body, error_response
from ultraflash.server.jobs.routes import replay_routes, video_routes
from ultraflash.server.keys.gate import KeyGate
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.sockets import caller_of_socket
from ultraflash.server.keys.ticket_routes import ticket_routes
from ultraflash.server.logs import log_ids
from ultraflash.server.origins import RESPONSE_HEADERS, Gate, origin_allowed
from ultraflash.server.outbox import POLICY_VIOLATION
from ultraflash.server.protocol import json_schema
from ultraflash.server.request_log import RequestLog
from ultraflash.server.resident_memory import resident_bytes
from ultraflash.server.services import Services
from ultraflash.server.session_routes import add_sessions
from ultraflash.server.settings import Settings
from ultraflash.server.stream_server import StreamServer

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "web"
NO_CACHE = {"Cache-Control": "no-cache"}


def create_app(settings: Settings, *, on_worker_failed: Callable[[], None] | None = None) -> FastAPI:
    """Builds the app; the worker starts with its lifespan.

    Args:
        settings: of the server.
        on_worker_failed: called once when no worker can be had, for good.
    """
    services = Services.build(settings, on_worker_failed=on_worker_failed)
    server = services.server

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        title="ultraflash",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.server = server
    app.state.services = services
    # The last one is the outermost: the log, then hosts and headers, then keys.
    app.add_middleware(
        KeyGate,
        keyring=services.keyring,
        tickets=services.tickets,
        max_body_bytes=settings.jobs.max_upload_bytes,
        open_metrics=settings.http.open_metrics,
    )
    app.add_middleware(Gate, settings=settings.http)
    app.add_middleware(RequestLog)
    _add_errors(app)
    _add_health(app, server, services.background)
    _add_models(app, server)
    _add_stream(app, server, services.keyring)
    app.include_router(video_routes(services.jobs))
    app.include_router(ticket_routes(services.tickets))
    app.include_router(replay_routes(services.jobs))
    add_sessions(app, server)
    _add_page(app)
    return app


def _add_health(app: FastAPI, server: StreamServer, background: BackgroundTasks) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The web process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether streams can be started, how far loading has come, or what is in the way."""
        status, trouble = server.supervisor.status, background.trouble
        if server.supervisor.is_ready and trouble is None:
            return JSONResponse({"ready": True})
        body = {
            "ready": False,
            "stage": trouble if server.supervisor.is_ready else status.stage,
            "progress": status.progress,
            "restarts": status.restarts,
        }
        headers = {"Retry-After": str(server.settings.stream.retry_after_s)}
        return JSONResponse(body, status_code=503, headers=headers)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text format."""
        server.metrics.worker_restarts.set(server.supervisor.status.restarts)
        server.metrics.ready.set(server.supervisor.is_ready and background.trouble is None)
        processes: dict[str, int | None] = {"web": os.getpid(), "worker": server.supervisor.process_id}
        for process, process_id in processes.items():
            held = resident_bytes(process_id) if process_id is not None else 0
            server.metrics.resident.labels(process=process).set(held)
        server.metrics.show_gpus(server.supervisor.gpus)
        server.metrics.waiting.set(len(server.sessions.line))
        server.metrics.viewers.set(sum(len(session.audience.viewers) for session in server.sessions))
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_models(app: FastAPI, server: StreamServer) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The loaded preset, as the OpenAI client lists models."""
        ready = server.capabilities()
        return {
            "object": "list",
            "data": [{"id": ready.model, "object": "model", "created": 0, "owned_by": "ultraflash"}],
        }

    @app.get("/v1/capabilities")
    async def capabilities() -> dict[str, Any]:
        """What can be asked for."""
        ready = server.capabilities()
        sizes = [{"name": name, "width": width, "height": height} for name, width, height in ready.sizes]
        preset = {
            "name": ready.model,
            "fps": ready.fps,
            "sizes": sizes,
            "default_size": ready.default_size,
            "max_prompt_chars": ready.max_prompt_chars,
        }
        return {
            "presets": [preset],
            "default_preset": ready.model,
            "transports": ["webcodecs", "fmp4"],
            "codecs": ["avc1"],
            "transitions": ["cut", "fade", "blend"],
            "images": ["image/png", "image/jpeg", "image/webp"],
            "max_image_bytes": server.settings.stream.max_image_bytes,
            "max_ahead_ms": server.settings.stream.ahead_ms,
            "max_streams": server.settings.stream.max_streams,
        }


def _add_stream(app: FastAPI, server: StreamServer, keyring: Keyring) -> None:
    @app.get("/v1/stream/schema")
    async def schema() -> dict[str, Any]:
        """JSON Schema of the events of the stream."""
        return json_schema()

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        """Live streams; see PROTOCOL.md."""
        await websocket.accept()
        if not origin_allowed(server.settings.http, websocket.headers):
            await websocket.close(POLICY_VIOLATION, "origin not allowed")
            return
        timeout_s = server.settings.stream.start_timeout_s
        caller = await caller_of_socket(
            websocket,
            keyring,
            server.metrics,
            timeout_s=timeout_s,
            max_bytes=server.settings.http.max_message_bytes,
        )
        if caller is not None:
            with log_ids(key=caller.key_id):
                await Connection(websocket, server, caller).run()


class PageFiles(StaticFiles):
    """Files of the page, revalidated at each load so that a new version is seen at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file with our cache policy."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(NO_CACHE)
        return response


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        """The page."""
        return FileResponse(PAGE / "index.html", headers=NO_CACHE)

    app.mount("/assets", PageFiles(directory=PAGE), name="assets")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UltraflashError)
    async def ours(request: Request, error: UltraflashError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        # Made outside of all middleware, which therefore cannot add its headers; the log gets the traceback.
        message = "The server failed at this request; its log says why."
        body = error_body("server_fault", message, param=None, status=500)
        return JSONResponse(body, status_code=500, headers=RESPONSE_HEADERS)

    @app.exception_handler(OperationalError)
    async def database(request: Request, error: OperationalError) -> JSONResponse:
        log.error("the database does not answer: %s", error)
        body = error_body("database_away", "The database does not answer; try again.", param=None, status=503)
        return JSONResponse(body, status_code=503, headers={"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = "not_found" if error.status_code == 404 else f"http_{error.status_code}"
        body = error_body(code, str(error.detail), param=None, status=error.status_code)
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse(
            error_body("invalid_field", first["msg"], param=param, status=422), status_code=422
        )
