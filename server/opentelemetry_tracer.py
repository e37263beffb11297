"""Traces by OpenTelemetry, the extra ``otel``. Nothing global is set, so that a host program keeps its own."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from ultraflash.models.errors import MissingExtra

try:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtra(
        "Traces need OpenTelemetry: pip install 'ultraflash[otel]', or set traces.exporter to none."
    ) from error

from ultraflash.server.tracing import Attribute

_PREFIX = "ultraflash."
_propagator = TraceContextTextMapPropagator()


class OpenTelemetrySpan:
    """A span of the SDK."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span))
        self._context = carrier.get("traceparent")

    @property
    def context(self) -> str | None:
        """Its ``traceparent``."""
        return self._context

    def end(self, *, at_ns: int | None = None, failed: bool = False, **attributes: Attribute) -> None:
        """Ends it with what is known by now."""
        if not self._span.is_recording():
            return
        self._span.set_attributes({_PREFIX + name: value for name, value in attributes.items()})
        if failed:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end(at_ns)


class OpenTelemetryTracer:
    """Spans of one process."""

    def __init__(self, process: str, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {SERVICE_NAME: "ultraflash", SERVICE_VERSION: version("ultraflash"), f"{_PREFIX}process": process}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("ultraflash")

    @classmethod
    def open(
        cls, process: str, *, exporter: str, endpoint: str | None, folder: str | None
    ) -> OpenTelemetryTracer:
        """See ``open_tracer``."""
        if exporter == "file":
            return cls(process, _file_processor(Path(folder or "."), process))
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return cls(process, BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))

    def span(
        self, name: str, *, parent: str | None = None, start_ns: int | None = None, **attributes: Attribute
    ) -> OpenTelemetrySpan:
        """Begins a span."""
        context = None if parent is None else _propagator.extract({"traceparent": parent})
        given = {_PREFIX + key: value for key, value in attributes.items()}
        return OpenTelemetrySpan(
            self._tracer.start_span(name, context, attributes=given, start_time=start_ns)
        )

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


def _file_processor(folder: Path, process: str) -> SpanProcessor:
    folder.mkdir(parents=True, exist_ok=True)
    # Open as long as the process: each span is written and flushed when it ends.
    file = (folder / f"{process}-{os.getpid()}.jsonl").open("a", encoding="utf-8")

    def line(span: ReadableSpan) -> str:
        return span.to_json(indent=None) + "\n"

    return SimpleSpanProcessor(ConsoleSpanExporter(out=file, formatter=line))
