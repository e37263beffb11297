"""Errors as clients of the stream see them."""

from __future__ import annotations

from ultraflash.models.errors import UltraflashError
from ultraflash.server.errors import ProtocolError
from ultraflash.server.protocol import ErrorEvent
from ultraflash.server.worker.messages import CommandRefused


def error_event(error: UltraflashError, event_id: str | None = None) -> ErrorEvent:
    """One that was raised here."""
    if isinstance(error, ProtocolError):
        event_id = event_id or error.event_id
    return ErrorEvent(code=error.code, message=error.message, retryable=error.retryable, event_id=event_id)


def refusal_event(report: CommandRefused) -> ErrorEvent:
    """One that the worker has reported."""
    return ErrorEvent(
        code=report.code, message=report.message, retryable=report.retryable, event_id=report.event_id
    )
