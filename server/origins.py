"""Which hosts and origins may talk to the server, and what every response tells the browser."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ultraflash.server.settings import LOOPBACK, HttpSettings

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
RESPONSE_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Older browsers know this and not frame-ancestors.
    "X-Frame-Options": "DENY",
    # Pages of others get neither a window on ours nor our videos in elements of theirs.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


FOREIGN_PAGE = {
    "code": "origin_not_allowed",
    "message": "Pages of other origins may not do this; see the setting http.allowed_origins.",
    "param": None,
    "type": "invalid_request_error",
}


def host_name(authority: str) -> str:
    """``localhost:8000`` as ``localhost``, ``[::1]:8000`` as ``::1``; empty where it cannot be read."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def host_allowed(settings: HttpSettings, headers: Headers) -> bool:
    """Whether the Host header names this server, so that a foreign name pointed at it gets nowhere."""
    allowed = settings.allowed_hosts or (LOOPBACK if settings.on_loopback else ())
    return not allowed or host_name(headers.get("host", "")) in allowed


def origin_allowed(settings: HttpSettings, headers: Headers) -> bool:
    """Whether the page that asks is our own or a configured one; programs send no Origin."""
    origin = headers.get("origin")
    if origin is None or origin in settings.allowed_origins:
        return True
    return urlsplit(origin).netloc == headers.get("host")


def changes_something(scope: Scope) -> bool:
    """Whether a request is one that a foreign page must not make; forms are sent without asking first."""
    return scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")


class Gate:
    """ASGI middleware: refuses foreign hosts and pages, and adds the security headers."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            send = _with_headers(send)
        if not host_allowed(self._settings, Headers(scope=scope)):
            await self._refuse(scope, receive, send)
        elif changes_something(scope) and not origin_allowed(self._settings, Headers(scope=scope)):
            await JSONResponse({"error": FOREIGN_PAGE}, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "host not allowed"})
            return
        body = {
            "code": "host_not_allowed",
            "message": "This server does not answer to that Host name; see the setting http.allowed_hosts.",
            "param": None,
            "type": "invalid_request_error",
        }
        await JSONResponse({"error": body}, status_code=421)(scope, receive, send)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(RESPONSE_HEADERS)
        await send(message)

    return send_with_headers
