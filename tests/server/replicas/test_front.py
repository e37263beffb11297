"""Two replicas behind one address: streams are shared out, viewers find them, and a killed one costs nobody work."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import time
from typing import Any

import httpx
import numpy as np
import pytest
from key_holders import make_key
from live_server import PATIENCE_S, LiveServer, StreamClient
from pattern_engine import read_number
from PIL import Image
from replicas_client import alive, children, kill_replica, replica_ids, sessions_by_replica
from streams import decoded
from videos_client import ask, download, make, numbers, pictures, wait_for

from ultraflash.server.protocol import MediaFlags
from ultraflash.server.replicas.directory import UNSEEN_S

StartFront = Any


async def come_back(client: StreamClient, started: dict[str, Any], lost: StreamClient) -> dict[str, Any]:
    await client.send(
        "session.resume",
        session_id=started["session_id"],
        resume_token=started["resume_token"],
        last_pts_us=lost.frames()[-1][0].pts_us,
    )
    return await client.until("session.resumed")


async def test_streams_are_shared_out_and_viewers_find_theirs(start_front: StartFront) -> None:
    front: LiveServer = start_front()
    async with front.client() as first, front.client() as second:
        one = await first.start("a red hill", seed=1)
        await first.until_frame(5)
        two = await second.start("a blue hill", seed=2)
        await second.until_frame(5)
        assert await asyncio.to_thread(sessions_by_replica, front) == {0: 1, 1: 1}
        listed = await asyncio.to_thread(front.sessions)
        assert {session["id"] for session in listed} == {one["session_id"], two["session_id"]}
        for started, owner in ((one, first), (two, second)):
            async with front.viewer(started) as viewer:
                assert (await viewer.until("session.started"))["session_id"] == started["session_id"]
                newest = owner.frames()[-1][0].seq
                await asyncio.gather(viewer.until_frame(newest + 5), owner.until_frame(newest + 30))
            path = f"/v1/sessions/{started['session_id']}?token={started['resume_token']}"
            status, known = await asyncio.to_thread(front.get, path)
            assert (status, known["state"], known["replay"]["seed"]) == (200, "live", started["seed"])
        await second.send("prompt.update", prompt="a green hill", event_id="turn")
        await second.until("prompt.applied", event_id="turn")
        await first.send("session.stop")
        await first.until("session.done")
        assert await first.until_closed() == (1000, "stopped")
    metrics = str(front.get("/metrics")[1])
    for number in (0, 1):
        assert f'ultraflash_first_frame_seconds_count{{replica="{number}"}} 1.0' in metrics
        assert f'ultraflash_ready{{replica="{number}"}} 1.0' in metrics


async def test_an_owner_that_comes_back_is_led_to_its_replica(start_front: StartFront) -> None:
    # Nobody comes back to what it leaves, for which it would wait when it is stopped.
    front: LiveServer = start_front(replicas__drain_s=0)
    async with front.client() as other:
        await other.start("a lake")
        async with front.client() as client:
            started = await client.start("a red hill")
            await client.until_frame(20)
            client.socket.transport.abort()
        assert await asyncio.to_thread(sessions_by_replica, front) == {0: 1, 1: 1}
        for _ in range(2):
            async with front.client() as again:
                resumed = await come_back(again, started, client)
                assert resumed["state"] == "continued"
                await again.until_frame(client.frames()[-1][0].seq + 10)
                again.socket.transport.abort()


async def test_sessions_of_a_killed_replica_go_on_at_the_other_one(start_front: StartFront) -> None:
    front: LiveServer = start_front(stream__snapshot_share=1, PATTERN_LOAD_SECONDS=20)
    async with front.client() as first, front.client() as second:
        one = await first.start("a red hill", seed=1)
        await second.start("a blue hill", seed=2)
        await first.until_frame(70)
        await asyncio.to_thread(kill_replica, front, 0)
        code, _ = await first.until_closed()
        assert code == 1012
        async with front.client() as again:
            await come_back(again, one, first)
            assert (await again.until("session.resumed"))["state"] == "restored"
            await again.until_frame(first.frames()[-1][0].seq + 40)
            assert await asyncio.to_thread(sessions_by_replica, front) in ({1: 2}, {0: 0, 1: 2})
            await second.until_frame(60)
            assert "session.resumed" not in second.kinds()
        seen = first.frames() + again.frames()
    assert [header.seq for header, _ in seen] == list(range(len(seen)))
    assert not any(MediaFlags.DISCONTINUITY in header.flags for header, _ in seen)
    first.media = [*first.media, *again.media]
    assert [read_number(frame) for frame in decoded(first)] == list(range(len(seen)))
    await asyncio.to_thread(front.wait_for_metric, 'ultraflash_replicas{state="ready"} 2.0')
    assert "ultraflash_replica_restarts_total 1.0" in front.get("/metrics")[1]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_replica_loses_no_job(
    start_front: StartFront, kind: str, request: pytest.FixtureRequest
) -> None:
    settings = {} if kind == "sqlite" else {"data__database": request.getfixturevalue("postgres_url")}
    front: LiveServer = start_front(PATTERN_SECONDS=0.05, jobs__checkpoint_s=0.2, jobs__lease_s=6, **settings)
    made = [make(front, num_frames=129) for _ in range(6)]
    for video in made[:2]:
        wait_for(front, video["id"], lambda seen: seen["progress"] >= 20)
    kill_replica(front, 1)
    for video in made:
        assert wait_for(front, video["id"])["status"] == "completed"
        assert numbers(pictures(download(front, video["id"]))) == list(range(129))
        log = ask(front, "GET", f"/v1/videos/{video['id']}/events").body.decode()
        assert log.count("event: completed") == 1


def test_what_a_client_asks_of_the_front_is_what_a_server_answers(front: LiveServer) -> None:
    assert front.get("/healthz") == (200, {"status": "ok"})
    assert "<title>" in front.get("/")[1]
    assert front.get("/v1/models")[1]["data"][0]["id"] == "pattern"
    assert front.get("/nothing")[0] == 404
    assert front.get("/v1/models", Host="evil.example")[0] == 421
    assert ask(front, "POST", "/v1/videos", {"prompt": "x"}, {"Origin": "http://evil.example"}).status == 403
    assert front.get("/replica/state")[0] == 404
    video = make(front, num_frames=33)
    assert wait_for(front, video["id"])["status"] == "completed"
    path = f"/v1/videos/{video['id']}/content"
    whole = download(front, video["id"])
    part = ask(front, "GET", path, headers={"Range": "bytes=100-299"})
    assert (part.status, part.body) == (206, whole[100:300])
    for _ in range(3):
        url = ask(front, "POST", "/v1/tickets", {"path": path}).json["url"]
        assert ask(front, "GET", url).body == whole
    assert ask(front, "DELETE", f"/v1/videos/{video['id']}").json["deleted"] is True
    # A front that told what it asks of its replicas would tell tickets.
    assert "ticket=" not in front.output()


def test_a_job_is_cancelled_wherever_it_is_made(start_front: StartFront) -> None:
    front: LiveServer = start_front(PATTERN_SECONDS=0.2)
    made = [make(front, num_frames=1000) for _ in range(2)]
    for video in made:
        wait_for(front, video["id"], lambda seen: seen["status"] == "in_progress")
    for video in made:
        assert ask(front, "POST", f"/v1/videos/{video['id']}/cancel").json["status"] == "cancelled"
    following = [make(front, num_frames=9) for _ in range(2)]
    for video in following:
        assert wait_for(front, video["id"])["status"] == "completed"


async def test_a_front_that_is_stopped_lets_streams_end_and_begins_none(start_front: StartFront) -> None:
    front: LiveServer = start_front()
    replicas = replica_ids(front)
    async with front.client() as client, front.client() as late:
        await client.start("a red hill")
        await client.until_frame(10)
        front.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(front.wait_for, lambda: front.get("/readyz")[0] == 503, "draining")
        await late.send("session.start", prompt="a lake")
        assert (await late.until("error"))["code"] == "not_ready"
        assert (await late.until_closed())[0] == 1013
        # One that dies now is not replaced.
        shared = await asyncio.to_thread(sessions_by_replica, front)
        await asyncio.to_thread(kill_replica, front, next(one for one in shared if not shared[one]))
        await client.until_frame(client.frames()[-1][0].seq + 40)
        await client.send("session.stop")
        await client.until("session.done")
    assert await asyncio.to_thread(front.process.wait, 60) == 0
    assert front.output().count(" is process ") == 2
    assert not any(alive(process) for process in replicas)


async def test_replicas_end_with_a_front_that_was_killed(start_front: StartFront) -> None:
    front: LiveServer = start_front(stream__snapshot_share=1)
    processes = [*replica_ids(front), *(worker for one in replica_ids(front) for worker in children(one))]
    assert len(processes) == 4
    async with front.client() as client:
        started = await client.start("a red hill", seed=1)
        await client.until_frame(70)
        os.kill(front.process.pid, signal.SIGKILL)
        front.process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(alive(process) for process in processes) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert not any(alive(process) for process in processes)
    await asyncio.to_thread(front.start)
    await asyncio.to_thread(front.wait_for_metric, 'ultraflash_replicas{state="ready"} 2.0')
    async with front.client() as again:
        await come_back(again, started, client)
        assert (await again.until("session.resumed"))["state"] == "restored"
        await again.until_frame(client.frames()[-1][0].seq + 20)


def test_replicas_that_cannot_serve_end_the_front_and_say_why(start_server: Any) -> None:
    front = start_server("--replicas", "2", "--preset", "broken")
    assert front.process.wait(120) == 2
    assert "cannot be loaded" in front.output()


async def test_nobody_but_the_front_can_look_into_a_replica_and_keys_go_through_it(
    start_front: StartFront,
) -> None:
    secret = "a secret that is long enough"
    front: LiveServer = start_front(replicas__secret=secret)
    address = front.output().split("replica 0 is process")[1].split(" at ")[1].split()[0]
    for shown, status in (("", 404), ("another secret", 404), (secret, 200)):
        answer = httpx.get(f"http://{address}/replica/state", headers={"X-Ultraflash-Replica": shown})
        assert answer.status_code == status
        assert front.get("/replica/state", **{"X-Ultraflash-Replica": shown})[0] == 404
    ann = make_key(front, "ann")
    assert front.get("/v1/models")[0] == 401
    assert front.get("/metrics")[0] == 401
    assert front.get("/v1/models", **ann.headers)[0] == 200
    async with front.client() as other, front.client() as client, front.client() as stranger:
        for one in (other, client):
            # The second one moves to the free replica with its stream, and has to be known there too.
            await one.send("session.authenticate", key=ann.secret)
            await one.start("a hill")
            await one.until_frame(5)
        sessions = await asyncio.to_thread(sessions_by_replica, front)
        assert sessions == {0: 1, 1: 1}
        await stranger.send("session.authenticate", key="uf_nothing")
        await stranger.send("session.start", prompt="a hill")
        assert (await stranger.until("error"))["code"] == "unauthorized"
        assert (await stranger.until_closed())[0] == 1008


async def test_a_queue_starts_a_replica_which_takes_who_waits(start_front: StartFront) -> None:
    front: LiveServer = start_front("--max-replicas", "2", replicas=1, stream__max_streams=1)
    async with front.client() as first, front.client() as second:
        await first.start("a red hill")
        await first.until_frame(10)
        await second.send("session.start", prompt="a blue hill")
        await second.until("queue.status")

        async def go_on() -> None:
            while True:
                await first.step()

        playing = asyncio.create_task(go_on())
        await second.until("session.started")
        await second.until_frame(20)
        playing.cancel()
        assert await asyncio.to_thread(sessions_by_replica, front) == {0: 1, 1: 1}
    assert "replica 1 is started, the queue is long" in front.output()


async def test_a_stream_from_a_large_picture_starts_at_the_free_replica(front: LiveServer) -> None:
    large = noise()
    assert len(large) > 64 * 1024
    async with front.client() as other, front.client() as client:
        # Both are at the same replica until they have a session.
        await other.start("a lake")
        await other.until_frame(5)
        await client.start("a red hill", image=base64.b64encode(large).decode())
        await client.until_frame(5)
        assert await asyncio.to_thread(sessions_by_replica, front) == {0: 1, 1: 1}


async def test_who_was_refused_starts_where_there_is_room_by_then(front: LiveServer) -> None:
    async with front.client() as client, front.client() as other:
        await client.send("session.start", prompt="a hill", size="enormous")
        await client.until("error")
        # Until then the replica that has refused counts as taken.
        await asyncio.sleep(1.2 * UNSEEN_S)
        await other.start("a lake")
        await other.until_frame(5)
        await client.start("a hill")
        await client.until_frame(5)
        assert await asyncio.to_thread(sessions_by_replica, front) == {0: 1, 1: 1}


def noise() -> bytes:
    """A PNG that cannot be made small."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (240, 416, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
