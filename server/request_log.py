"""One line for every request, and an id that all lines of it carry and its response names."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ultraflash.server.logs import fields, log_ids

log = logging.getLogger(__name__)

HEADER = "X-Request-Id"
_ID_BYTES = 6


class RequestLog:
    """ASGI middleware. The path is logged without its query, which may hold a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(_ID_BYTES)
        status, start = 0, time.perf_counter()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with log_ids(request=request_id):
            try:
                await self._app(scope, receive, named)
            finally:
                self._note(scope, status, time.perf_counter() - start)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        of_the_api = scope["path"].startswith("/v1/")
        caller = scope.get("state", {}).get("caller")
        about = {
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "status": status or None,
            "ms": round(seconds * 1000, 1),
            "key": None if caller is None else caller.key_id,
        }
        given = {name: value for name, value in about.items() if value is not None}
        log.log(logging.INFO if of_the_api else logging.DEBUG, "request", extra=fields(**given))
