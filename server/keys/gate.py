"""Lets requests in that show a key, where one is needed, and no body that is too long.

Whatever is not named here needs a key, so that a new route is closed until somebody opens it.
"""

from __future__ import annotations

import re

from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ultraflash.models.errors import UltraflashError
from ultraflash.server.body_limit import limited, too_large
from ultraflash.server.error_response import error_response
from ultraflash.server.errors import NotReady
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.records import ANYBODY, Caller
from ultraflash.server.keys.tickets import Tickets
from ultraflash.server.logs import log_ids

# The page, which asks for the key, and what tells whether the server lives.
OPEN = re.compile(r"/|/assets/.*|/healthz|/readyz")
METRICS = "/metrics"
# These ask for a token that its session's owner was given.
TOKEN_GUARDED = re.compile(r"/v1/sessions/[^/]+/recording|/v1/stream/[^/]+/live\.(mp4|ts)")


def caller_of(connection: HTTPConnection) -> Caller:
    """Who a request comes from."""
    caller: Caller = connection.state.caller
    return caller


class KeyGate:
    """ASGI middleware. WebSockets pass: the stream asks its clients itself, since browsers send no header there.

    Args:
        max_body_bytes: longest body of any request.
        open_metrics: whether `/metrics` needs no key.
    """

    def __init__(
        self, app: ASGIApp, *, keyring: Keyring, tickets: Tickets, max_body_bytes: int, open_metrics: bool
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._tickets = tickets
        self._max_body_bytes = max_body_bytes
        self._open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._identify(scope)
            limit = min(self._max_body_bytes, caller.limits.max_body_bytes or self._max_body_bytes)
            _check_length(Headers(scope=scope).get("content-length"), limit)
        except UltraflashError as error:
            await error_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        with log_ids(key=caller.key_id):
            await self._app(scope, limited(receive, limit), send)

    async def _identify(self, scope: Scope) -> Caller:
        """Raises ``Unauthorized``, or ``NotReady`` while the database is away."""
        path = scope["path"]
        if OPEN.fullmatch(path) or TOKEN_GUARDED.fullmatch(path):
            return ANYBODY
        if path == METRICS and self._open_metrics:
            return ANYBODY
        try:
            ticket = QueryParams(scope["query_string"]).get("ticket")
            if ticket is not None and scope["method"] in ("GET", "HEAD"):
                return await self._tickets.redeem(ticket, path)
            return await self._keyring.caller(Headers(scope=scope).get("authorization"))
        except OperationalError as error:
            raise NotReady("The database does not answer; try again.") from error


def _check_length(declared: str | None, limit: int) -> None:
    """Refuses what says that it is too long before any of it is read. Raises ``BodyTooLarge``."""
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
