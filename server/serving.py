"""Runs the app on a listening socket until it is told to stop, or until no worker can be had."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ultraflash.server.app import create_app
from ultraflash.server.services import Services
from ultraflash.server.settings import Settings

CANNOT_SERVE = 2
GRACE_S = 3


def http_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn is to speak, for a server as for a front."""
    return {
        "ws_per_message_deflate": False,
        "ws_max_size": settings.http.longest_message(settings.stream.max_image_bytes),
        "timeout_graceful_shutdown": GRACE_S,
        "server_header": False,
        "access_log": False,
        "log_config": None,
    }


class Serving:
    """One server.

    Attributes:
        app: what answers; it may be wrapped before ``run``.
        services: what runs behind it.
    """

    def __init__(self, settings: Settings) -> None:
        app = create_app(settings, on_worker_failed=self._stop)
        self.app: ASGIApp = app
        self.services: Services = app.state.services
        self._settings = settings
        self._server: uvicorn.Server | None = None

    def run(self, listener: socket.socket) -> int:
        """Serves. Returns 0, or 2 when the engine could not be loaded."""
        config = uvicorn.Config(self.app, lifespan="on", **http_options(self._settings))
        self._server = uvicorn.Server(config)
        try:
            self._server.run(sockets=[listener])
        except KeyboardInterrupt:
            return 0
        status = self.services.server.supervisor.status
        if status.state == "failed":
            print(f"ultraflash: {status.message}", flush=True)
            return CANNOT_SERVE
        return 0

    def _stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
