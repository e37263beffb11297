"""The worker dies, hangs on a fault or never comes up: the server stays, and says what happens."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import av
import pytest
from pattern_engine import read_number

from ultraflash.server.protocol import MediaFlags


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_killed_worker_is_replaced_and_a_stream_that_is_not_kept_starts_anew(
    start_server: Any,
) -> None:
    server = start_server(PATTERN_SECONDS=0.3, PATTERN_LOAD_SECONDS=2, stream__snapshot_share=0)
    assert server.get("/readyz")[0] == 503
    server.wait_until_ready()
    (worker,) = server.worker_ids()
    async with server.client() as client:
        started = await client.start("a red hill", seed=7, size="1K")
        await client.until_frame(5)
        await client.send("prompt.update", prompt="a blue hill", event_id="turn")
        await client.until("prompt.applied")
        await client.until_frame(25)
        os.kill(worker, signal.SIGKILL)
        error = await client.until("error")
        assert (error["code"], error["retryable"]) == ("engine_restarting", True)
        status, body = server.get("/readyz")
        assert (status, body["ready"], body["restarts"]) == (503, False, 1)
        resumed = await client.until("session.resumed")
        config = await client.until("stream.config")
        first = len(client.frames())
        await client.until_frame(client.frames()[-1][0].seq + 12)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert resumed["session_id"] == started["session_id"]
    assert resumed["state"] == "restarted"
    header = client.frames()[first][0]
    assert resumed["first_pts_us"] == header.pts_us
    assert header.flags == MediaFlags.KEY | MediaFlags.DISCONTINUITY
    assert (config["generation"], header.generation, config["size"]) == (2, 2, "1K")
    assert [header.seq for header, _ in client.frames()] == list(range(len(client.frames())))
    with av.open(
        io.BytesIO(b"".join(data for _, data in client.frames()[first:])), format="h264"
    ) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [read_number(picture) for picture in pictures[:5]] == [0, 1, 2, 3, 4]
    restart = done["replay"]["events"][-1]
    assert (restart["restarted"], restart["prompt"], restart["size"]) == (True, "a blue hill", "1K")
    assert gone(worker)
    assert len(server.worker_ids()) == 1
    assert server.get("/readyz")[0] == 200
    metrics = server.get("/metrics")[1]
    assert "ultraflash_worker_restarts 1.0" in metrics
    assert 'ultraflash_streams_resumed_total{state="restarted"} 1.0' in metrics


async def test_a_change_that_waited_when_the_worker_died_is_not_lost(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as client:
        client.acknowledge = False
        await client.start("a red hill")
        await client.until_frame(20)
        await client.send("prompt.update", prompt="a blue hill", event_id="turn")
        await client.send("session.control", size="1K", event_id="larger")
        await client.listen(0.2)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await client.until("error", code="engine_restarting")
        await client.until("session.resumed")
        client.acknowledge = True
        await client.ack(client.frames()[-1][0])
        await client.until("prompt.applied", event_id="turn")
        await client.until("quality.changed", size="1K")


async def test_a_fault_of_one_stream_ends_it_with_1011_and_leaves_the_others(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as healthy, server.client() as faulty:
        await healthy.start()
        await faulty.start()
        await faulty.until_frame(3)
        await faulty.send("prompt.update", prompt="fault", event_id="turn")
        await faulty.until("error", code="engine_fault")
        done = await faulty.until("session.done")
        assert done["reason"] == "engine_fault"
        assert await faulty.until_closed() == (1011, "engine_fault")
        await healthy.until_frame(60)
    assert "a fault on purpose" in server.output()


async def test_a_stream_that_kills_every_worker_is_given_up(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as client:
        await client.start()
        await client.send("prompt.update", prompt="die", event_id="turn")
        assert await client.until_closed() == (1011, "engine_fault")
    restarting = [event for event in client.events if event.get("code") == "engine_restarting"]
    # Frames that were on their way when it first happened count as progress.
    assert len(restarting) in (3, 4)
    server.wait_until_ready()
    async with server.client() as client:
        await client.start(max_frames=5)
        assert await client.until_closed() == (1000, "max_frames")


async def test_a_session_is_refused_while_the_engine_loads(start_server: Any) -> None:
    server = start_server(PATTERN_LOAD_SECONDS=4)
    async with server.client() as client:
        await client.send("session.start", prompt="too early")
        assert (await client.until("error"))["code"] == "not_ready"
        assert await client.until_closed() == (1013, "Retry-After: 5")
    status, body = server.get("/v1/capabilities")
    assert (status, body["error"]["code"], body["error"]["type"]) == (503, "not_ready", "server_error")


@pytest.mark.parametrize("preset", ["broken", "dying"])
def test_an_engine_that_cannot_be_loaded_ends_the_server_with_its_reason(
    start_server: Any, preset: str
) -> None:
    server = start_server(preset=preset)
    assert server.process.wait(120) == 2
    reason = (
        "the preset 'broken' cannot be loaded" if preset == "broken" else "died 5 times before it was ready"
    )
    assert f"ultraflash: {reason}" in server.output().replace("The worker ", "")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_no_worker_outlives_its_server(start_server: Any, sign: signal.Signals) -> None:
    server = start_server()
    server.wait_until_ready()
    (worker,) = server.worker_ids()
    async with server.client() as client:
        await client.start()
        await client.until_frame(5)
        code = await asyncio.to_thread(server.stop, sign)
        assert (await client.until_closed())[0] in (1012, 1006)
    assert code in ((0,) if sign == signal.SIGINT else (-sign, 0))
    deadline = time.monotonic() + 60
    while not gone(worker) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert gone(worker)
    assert "Traceback" not in server.output()
