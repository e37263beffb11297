"""Traces: what took how long, over both processes. Switched off, as they are by default, they cost a call of nothing.

A span's ``context`` is a W3C ``traceparent``; whoever gets it, in this process or the worker, can hang spans below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Attribute = str | int | float | bool


class Span(Protocol):
    """Something that takes time."""

    @property
    def context(self) -> str | None:
        """What children name as their parent; None where there are no traces."""

    def end(self, *, at_ns: int | None = None, failed: bool = False, **attributes: Attribute) -> None:
        """It is over, now or at a Unix time in nanoseconds; a second end counts for nothing."""


class Tracer(Protocol):
    """Where spans begin."""

    def span(
        self, name: str, *, parent: str | None = None, start_ns: int | None = None, **attributes: Attribute
    ) -> Span:
        """Begins one, now or at a Unix time in nanoseconds."""

    def close(self) -> None:
        """Sends what has not been sent."""


class NoSpan:
    """Nothing."""

    context = None

    def end(self, *, at_ns: int | None = None, failed: bool = False, **attributes: Attribute) -> None:
        """Nothing happens."""


class NoTracer:
    """Traces that are switched off."""

    def span(
        self, name: str, *, parent: str | None = None, start_ns: int | None = None, **attributes: Attribute
    ) -> Span:
        """The span that is none."""
        return NO_SPAN

    def close(self) -> None:
        """Nothing happens."""


NO_SPAN: Span = NoSpan()
NO_TRACER: Tracer = NoTracer()


def open_tracer(process: str, *, exporter: str, endpoint: str | None, folder: str | None) -> Tracer:
    """The tracer of a process; OpenTelemetry is imported only where traces are wanted.

    Args:
        process: ``web`` or ``worker``.
        exporter: ``none``, ``otlp`` or ``file``.
        endpoint: of OTLP over HTTP; by default what OpenTelemetry's own environment variables say.
        folder: of the exporter ``file``, which writes one JSON object a line into a file for each process.

    Raises:
        MissingExtra: traces are wanted, and OpenTelemetry is not installed.
    """
    if exporter == "none":
        return NO_TRACER
    from ultraflash.server.opentelemetry_tracer import OpenTelemetryTracer

    return OpenTelemetryTracer.open(process, exporter=exporter, endpoint=endpoint, folder=folder)


def stage_spans(tracer: Tracer, group: Span, start_ns: int, seconds: Mapping[str, float]) -> None:
    """Children of a group, one for each stage.

    The engine reports how long each stage took, in their order, and not when it began: they are laid one behind the
    other from the group's start.
    """
    if group.context is None:
        return
    for stage, took_s in seconds.items():
        end_ns = start_ns + round(took_s * 1e9)
        tracer.span(stage, parent=group.context, start_ns=start_ns).end(at_ns=end_ns)
        start_ns = end_ns
