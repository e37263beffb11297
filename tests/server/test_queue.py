"""Clients that wait for a place at a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from live_server import LiveServer


@pytest.fixture
def full(start_server: Any) -> LiveServer:
    """A server with room for one stream and a queue for two."""
    server: LiveServer = start_server("--max-streams", "1", stream__max_queued=2)
    server.wait_until_ready()
    return server


async def test_who_finds_no_room_waits_hears_where_it_stands_and_begins_when_a_session_ends(
    full: LiveServer,
) -> None:
    async with full.client() as first, full.client() as second, full.client() as third:
        await first.start()
        await second.send("session.start", prompt="a hill")
        assert await second.until("queue.status") == {"type": "queue.status", "position": 1, "depth": 1}
        await third.send("session.start", prompt="a hill")
        assert await third.until("queue.status") == {"type": "queue.status", "position": 2, "depth": 2}
        assert await second.until("queue.status") == {"type": "queue.status", "position": 1, "depth": 2}
        assert "ultraflash_sessions_waiting 2.0" in full.get("/metrics")[1]
        # A queue is no session: one may ask for the time in it, and nothing else.
        await second.send("session.ping", t=1)
        await second.until("session.pong")
        for kind in ("session.start", "keyframe.request"):
            await second.send(kind, **({"prompt": "another"} if kind == "session.start" else {}))
            assert (await second.until("error"))["code"] == "unexpected_event"
        await first.send("session.stop")
        await first.until("session.done")
        await second.until("session.started")
        await second.until_frame(12)
        moved = await third.until("queue.status", position=1)
        assert moved["depth"] == 1
        # A session has ended, so the length of one is known by now.
        assert moved["eta_s"] >= 5


async def test_who_leaves_the_queue_is_forgotten(full: LiveServer) -> None:
    async with full.client() as first, full.client() as third:
        await first.start()
        async with full.client() as second:
            await second.send("session.start", prompt="a hill")
            await second.until("queue.status")
            await third.send("session.start", prompt="a hill")
            await third.until("queue.status", position=2)
        assert (await third.until("queue.status", position=1))["depth"] == 1
        await third.send("session.stop")
        done = await third.until("session.done")
        assert (done["reason"], done["frames"]) == ("stopped", 0)
        assert await third.until_closed() == (1000, "stopped")
        await asyncio.to_thread(full.wait_for_metric, "ultraflash_sessions_waiting 0.0")


async def test_a_full_queue_refuses_with_the_seconds_until_there_may_be_room(full: LiveServer) -> None:
    async with full.client() as first, full.client() as second, full.client() as third, full.client() as last:
        # 320 frames of 16 a second.
        await first.start(max_frames=320)
        await first.send("session.control", event_id="rest", paused=True)
        for client in (second, third):
            await client.send("session.start", prompt="a hill", max_frames=160)
            waits = await client.until("queue.status")
        assert waits["position"] == 2
        assert 5 <= second.events[0]["eta_s"] <= 20
        await last.send("session.start", prompt="no room")
        error = await last.until("error")
        assert (error["code"], error["retryable"]) == ("busy", True)
        code, reason = await last.until_closed()
        assert code == 1013
        assert 1 <= int(reason.removeprefix("Retry-After: ")) <= 60


async def test_what_a_waiting_client_asked_for_in_vain_is_said_when_its_turn_comes(full: LiveServer) -> None:
    async with full.client() as first, full.client() as second:
        await first.start()
        await second.send("session.start", prompt="refuse me")
        await second.until("queue.status")
        await first.send("session.stop")
        assert (await second.until("error"))["code"] == "prompt_too_long"
        await second.start("a hill")


async def test_a_stream_is_accepted_while_its_frames_fit_by_their_measured_cost(
    start_server: Any, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.json"
    # Of 0.75 s: two fifths of the time, or more than all of it.
    costs.write_text(json.dumps({"0.5K": 0.27, "1K": 1.0}))
    server: LiveServer = start_server(PATTERN_COSTS=costs, stream__capacity=1, size="1K")
    server.wait_until_ready()
    async with server.client() as first, server.client() as second, server.client() as third:
        # The first one is taken although it is too slow for real time, and says so.
        await first.start(size="1K")
        await second.send("session.start", prompt="a hill")
        await second.until("queue.status")
        await first.until_frame(24)
        await first.step_until(lambda: first.events[-1].get("generated_fps", 0) > 0, "measured speed")
        assert first.events[-1]["generated_fps"] < 16
        assert "session.started" not in second.kinds()
        # Once it leaves its size to the server, there is room for another one.
        await first.send("session.control", event_id="any", size="auto")
        await first.until("quality.changed", size="0.5K")
        await second.until("session.started")
        await third.send("session.start", prompt="a hill")
        await third.until("queue.status")
