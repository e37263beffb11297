"""The trail of a session: log lines and spans that let a prompt be followed to the packet that shows it.

A prompt is followed by its session and event: asked for, here; shown from a group on, in the worker; sent, here again
with the number of the packet. Prompts themselves are nobody's business and stay out of both.
"""

from __future__ import annotations

import logging
import time

from ultraflash.server.logs import fields
from ultraflash.server.tracing import Span, Tracer

log = logging.getLogger(__name__)


class SessionTrail:
    """Begins with the session."""

    def __init__(self, tracer: Tracer, session_id: str, *, size: str, prompt_chars: int) -> None:
        self._tracer = tracer
        self._session_id = session_id
        self._span = tracer.span("session", session=session_id, size=size, prompt_chars=prompt_chars)
        self._prompts: dict[str, tuple[Span, float]] = {}
        self._shown_from: dict[str, float] = {}
        self._sent = False
        self._began = time.monotonic()
        log.info("session asked for", extra=fields(session=session_id, size=size, prompt_chars=prompt_chars))

    @property
    def context(self) -> str | None:
        """Of the session's span."""
        return self._span.context

    def prompt_asked(self, event_id: str, prompt: str) -> str | None:
        """A new prompt is on its way to the worker; returns the context of its span."""
        if event_id not in self._prompts:
            about = fields(session=self._session_id, event=event_id, prompt_chars=len(prompt))
            log.info("prompt asked for", extra=about)
            span = self._tracer.span(
                "prompt change",
                parent=self.context,
                session=self._session_id,
                event=event_id,
                prompt_chars=len(prompt),
            )
            self._prompts[event_id] = (span, time.monotonic())
        return self._prompts[event_id][0].context

    def prompt_refused(self, event_id: str) -> None:
        """It is not going to be shown."""
        span, _ = self._prompts.pop(event_id, (None, 0.0))
        self._shown_from.pop(event_id, None)
        if span is not None:
            span.end(failed=True)

    def prompt_shown(self, event_id: str, first_us: float) -> None:
        """It takes effect at a frame, which is still to come."""
        if event_id in self._prompts:
            self._shown_from[event_id] = first_us

    def packet_sent(self, seq: int, pts_us: float) -> None:
        """A frame has come from the worker, and goes to those who watch."""
        if not self._sent:
            self._sent = True
            took_ms = round((time.monotonic() - self._began) * 1000)
            log.info("first packet", extra=fields(session=self._session_id, seq=seq, ms=took_ms))
        if not self._shown_from:
            return
        for event_id in [name for name, first_us in self._shown_from.items() if pts_us >= first_us]:
            del self._shown_from[event_id]
            span, asked_at = self._prompts.pop(event_id)
            took_ms = round((time.monotonic() - asked_at) * 1000)
            about = fields(session=self._session_id, event=event_id, seq=seq, ms=took_ms)
            log.info("first packet of a prompt", extra=about)
            span.end(seq=seq)

    def over(self, reason: str, frames: int) -> None:
        """The session is over."""
        log.info("session over", extra=fields(session=self._session_id, reason=reason, frames=frames))
        for span, _ in self._prompts.values():
            span.end(failed=True)
        self._prompts.clear()
        self._span.end(failed=reason == "engine_fault", reason=reason, frames=frames)
