"""Traces arrive at a collector as OPERATIONS.md says, and a collector that is away does no harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from otlp_collector import OtlpCollector

if TYPE_CHECKING:
    from live_server import LiveServer

StartServer = Callable[..., "LiveServer"]


async def play(server: LiveServer) -> None:
    """A session with two prompts."""
    async with server.client() as client:
        await client.start("a red hill")
        await client.until_frame(5)
        await client.send("prompt.update", event_id="turn", prompt="a blue hill")
        applied = await client.until("prompt.applied")
        await client.until_pts(applied["first_pts_us"])
        await client.send("session.stop")
        await client.until("session.done")


@pytest.mark.parametrize("how", ["settings", "environment"])
async def test_a_session_is_one_trace_of_both_processes_at_the_collector(
    start_server: StartServer, how: str
) -> None:
    with OtlpCollector() as collector:
        settings = (
            {"traces__endpoint": f"{collector.address}/v1/traces"}
            if how == "settings"
            else {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address}
        )
        server = start_server(traces__exporter="otlp", **settings)
        server.wait_until_ready()
        await play(server)
        # What has not been sent goes out at the end.
        assert server.stop() in (0, -15)
    assert len({span.trace for span in collector.spans}) == 1
    by_id = {span.id: span for span in collector.spans}
    names = {span.name for span in collector.spans}
    assert {"session", "prompt change", "group", "base", "sr", "encode"} <= names
    (root,) = [span for span in collector.spans if not span.parent]
    assert root.name == "session"
    for span in collector.spans:
        above = {"group": {"session", "prompt change"}, "prompt change": {"session"}, "session": {""}}
        parent = by_id[span.parent].name if span.parent else ""
        assert parent in above.get(span.name, {"group"}), span
        process = "web" if span.name in ("session", "prompt change") else "worker"
        assert span.resource["ultraflash.process"] == process
        assert span.resource["service.name"] == "ultraflash"


async def test_the_sampler_of_the_environment_thins_traces_out(start_server: StartServer) -> None:
    with OtlpCollector() as collector:
        endpoint = f"{collector.address}/v1/traces"
        server = start_server(
            traces__exporter="otlp", traces__endpoint=endpoint, OTEL_TRACES_SAMPLER="always_off"
        )
        server.wait_until_ready()
        await play(server)
        server.stop()
    assert collector.spans == []


async def test_without_its_collector_the_server_plays_and_ends_in_time(start_server: StartServer) -> None:
    server = start_server(traces__exporter="otlp", traces__endpoint="http://127.0.0.1:9/v1/traces")
    server.wait_until_ready()
    await play(server)
    began = time.monotonic()
    assert server.stop() in (0, -15)
    # Compose kills it after 30 s.
    assert time.monotonic() - began < 25
