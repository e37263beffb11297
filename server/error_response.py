"""Errors as REST says them, in one shape."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from ultraflash.models.errors import UltraflashError
from ultraflash.server.errors import Busy, NotReady, RestError, Unauthorized, http_status

RETRY_AFTER_S = 5


def error_body(code: str, message: str, *, param: str | None, status: int) -> dict[str, Any]:
    """The body of an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"code": code, "message": message, "param": param, "type": kind}}


def error_response(error: UltraflashError) -> JSONResponse:
    """The response that reports an error."""
    status = http_status(error)
    headers = dict(error.headers) if isinstance(error, RestError) else {}
    if error.retryable and not isinstance(error, RestError):
        known_s = error.retry_after_s if isinstance(error, Busy | NotReady) else None
        headers["Retry-After"] = str(known_s or RETRY_AFTER_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(error.code, error.message, param=error.param, status=status)
    return JSONResponse(body, status_code=status, headers=headers)
