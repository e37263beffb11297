"""Spans: nothing without the extra, OpenTelemetry's with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ultraflash.server.opentelemetry_tracer import OpenTelemetryTracer
from ultraflash.server.tracing import NO_SPAN, NO_TRACER, open_tracer, stage_spans


def test_switched_off_traces_are_one_object_that_does_nothing() -> None:
    tracer = open_tracer("web", exporter="none", endpoint=None, folder=None)
    assert tracer is NO_TRACER
    assert tracer.span("session", parent=None, session="s") is NO_SPAN
    assert NO_SPAN.context is None
    NO_SPAN.end(frames=1)
    stage_spans(tracer, NO_SPAN, 0, {"base": 1.0})


def test_without_traces_the_sdk_is_not_imported() -> None:
    # Its API may be: newer versions of FastAPI look for it themselves.
    code = (
        "import sys, ultraflash.server.app, ultraflash.server.worker.process;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_traces_without_the_extra_say_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from ultraflash.models.errors import MissingExtra\n"
        "from ultraflash.server.tracing import open_tracer\n"
        "try: open_tracer('web', exporter='otlp', endpoint=None, folder=None)\n"
        "except MissingExtra as error: sys.exit('ultraflash[otel]' not in error.message)\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def test_children_hang_below_their_parent_across_processes(exporter: InMemorySpanExporter) -> None:
    web = OpenTelemetryTracer("web", SimpleSpanProcessor(exporter))
    worker = OpenTelemetryTracer("worker", SimpleSpanProcessor(exporter))
    session = web.span("session", session="session_1")
    group = worker.span("group", parent=session.context, start_ns=1_000_000_000, group=0)
    stage_spans(worker, group, 1_000_000_000, {"base": 0.5, "sr": 0.25})
    group.end(at_ns=1_750_000_000, frames=9)
    session.end(failed=True, reason="engine_fault")
    session.end()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["base", "sr", "group", "session"]
    assert len({span.context.trace_id for span in spans.values()}) == 1
    assert spans["group"].parent.span_id == spans["session"].context.span_id
    assert spans["base"].parent.span_id == spans["group"].context.span_id
    assert (spans["base"].start_time, spans["base"].end_time) == (1_000_000_000, 1_500_000_000)
    assert (spans["sr"].start_time, spans["sr"].end_time) == (1_500_000_000, 1_750_000_000)
    assert spans["group"].attributes == {"ultraflash.group": 0, "ultraflash.frames": 9}
    assert not spans["session"].status.is_ok
    assert spans["group"].resource.attributes["ultraflash.process"] == "worker"
