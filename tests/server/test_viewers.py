"""Viewers of a live session: late, slow, many, and without a say."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import av
import pytest
from pattern_engine import read_number

from ultraflash.server.protocol import MediaFlags

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient


def numbers(client: StreamClient) -> list[int]:
    """Numbers that the received Annex-B frames show."""
    data = b"".join(data for _, data in client.frames())
    with av.open(io.BytesIO(data), format="h264") as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


async def pump(client: StreamClient) -> None:
    """Keeps a client receiving, and so acknowledging, until cancelled."""
    while True:
        await client.step()


async def test_a_late_viewer_starts_on_a_keyframe_and_sees_the_same_bytes_as_the_owner(
    server: LiveServer,
) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(60)
        owning = asyncio.create_task(pump(owner))
        async with server.viewer(started) as viewer:
            welcome = await viewer.until("session.started")
            await viewer.until("stream.config")
            header = await viewer.step()
            await viewer.until_frame(header.seq + 40)  # type: ignore[union-attr]
        owning.cancel()
    assert "resume_token" not in welcome
    assert "viewer_token" not in welcome
    assert welcome["session_id"] == started["session_id"]
    first = viewer.frames()[0][0]
    assert first.seq > 30
    assert MediaFlags.KEY in first.flags
    assert numbers(viewer)[:20] == list(range(first.seq, first.seq + 20))
    sent = {header.seq: data for header, data in owner.frames()}
    shared = [(header.seq, data) for header, data in viewer.frames() if header.seq in sent]
    assert len(shared) > 20
    assert all(sent[seq] == data for seq, data in shared)


async def test_viewers_who_come_together_cost_one_keyframe(server: LiveServer) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(60)
        owning = asyncio.create_task(pump(owner))

        async def watch(transport: str) -> int:
            async with server.viewer(started, transport=transport) as viewer:
                await viewer.until("stream.config")
                await viewer.step()
                first = viewer.media[0][0].seq
                await viewer.until_frame(first + 30)
                return first

        firsts = await asyncio.gather(*(watch(kind) for kind in ("webcodecs", "fmp4") * 3))
        owning.cancel()
    keys = [header.seq for header, _ in owner.frames() if MediaFlags.KEY in header.flags]
    assert len(keys) <= 3
    assert set(firsts) <= set(keys)


async def test_fragments_for_a_viewer_play_though_the_owner_takes_access_units(server: LiveServer) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(30)
        owning = asyncio.create_task(pump(owner))
        async with server.viewer(started, transport="fmp4") as viewer:
            assert (await viewer.until("session.started"))["container"] == "fmp4"
            await viewer.until("stream.config", container="fmp4")
            await viewer.step()
            first = viewer.media[0][0]
            await viewer.until_frame(first.seq + 20)
        owning.cancel()
    assert MediaFlags.INIT in first.flags
    with av.open(io.BytesIO(b"".join(data for _, data in viewer.media)), format="mp4") as container:
        shown = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown[:10] == list(range(first.seq, first.seq + 10))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("prompt.update", {"prompt": "mine", "event_id": "e"}),
        ("session.control", {"paused": True, "event_id": "e"}),
        ("session.start", {"prompt": "mine"}),
        ("session.resume", {"session_id": "x", "resume_token": "y"}),
    ],
)
async def test_a_viewer_cannot_steer(server: LiveServer, kind: str, fields: dict[str, Any]) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(5)
        async with server.viewer(started) as viewer:
            await viewer.until("session.started")
            await viewer.send(kind, **fields)
            error = await viewer.until("error")
            assert error["code"] == "not_the_owner"
            await viewer.send("session.ping", t=1)
            await viewer.until("session.pong")
        await owner.until_frame(owner.frames()[-1][0].seq + 20)
    assert "prompt.applied" not in owner.kinds()


async def test_wrong_tokens_and_unknown_sessions_are_refused(start_server: Any) -> None:
    server = start_server(stream__token_s=2)
    server.wait_until_ready()
    async with server.client() as owner:
        started = await owner.start()
        for token in ("", "wrong", started["resume_token"]):
            async with server.viewer(started, token=token) as viewer:
                assert await viewer.until_closed() == (1008, "bad_token")
                assert [event["code"] for event in viewer.events] == ["bad_token"]
        async with server.viewer({**started, "session_id": "session_0"}) as viewer:
            assert await viewer.until_closed() == (1008, "unknown_session")
        await asyncio.sleep(2)
        async with server.viewer(started) as viewer:
            assert await viewer.until_closed() == (1008, "bad_token")


async def test_there_are_so_many_places_for_viewers_and_the_list_says_how_many_are_taken(
    start_server: Any,
) -> None:
    server = start_server(stream__max_viewers=1)
    server.wait_until_ready()
    async with server.client() as owner:
        started = await owner.start("a secret prompt", seed=5)
        await owner.until_frame(15)
        async with server.viewer(started) as first, server.viewer(started) as second:
            await first.until("session.started")
            assert await second.until_closed() == (1013, "Retry-After: 5")
            (listed,) = server.sessions()
            assert "ultraflash_viewers 1.0" in server.get("/metrics")[1]
    assert listed.pop("seconds") >= 16 / 16
    assert listed == {
        "id": started["session_id"],
        "object": "session",
        "model": "pattern",
        "state": "live",
        "size": "0.5K",
        "width": 224,
        "height": 128,
        "fps": 16,
        "viewers": 1,
    }


async def test_viewers_hear_the_end_but_not_what_was_asked(server: LiveServer) -> None:
    async with server.client() as owner:
        started = await owner.start("a secret prompt")
        await owner.until_frame(5)
        async with server.viewer(started) as viewer:
            await viewer.until("session.started")
            await owner.send("session.control", event_id="larger", size="1K")
            await owner.until("quality.changed", size="1K")
            await viewer.until("quality.changed", size="1K")
            await owner.send("session.stop")
            done = await viewer.until("session.done")
            assert await viewer.until_closed() == (1000, "stopped")
    assert done == {"type": "session.done", "reason": "stopped", "frames": done["frames"]}
    assert "secret" not in str(viewer.events)
    assert started["resume_token"] not in str(viewer.events)


async def test_a_viewer_who_does_not_read_loses_frames_and_nobody_else_does(start_server: Any) -> None:
    server = start_server(stream__ahead_ms=20_000)
    server.wait_until_ready()
    async with server.client() as owner:
        started = await owner.start("noise", size="1K")
        await owner.send("session.control", event_id="rich", bitrate=20_000_000)
        await owner.until_frame(20)
        # One message waits in the client's library, the rest has to wait in the server.
        async with (
            server.client(
                f"/v1/stream/{started['session_id']}?token={started['viewer_token']}", max_queue=1
            ) as slow,
            server.viewer(started) as quick,
        ):
            slow.acknowledge = False
            quick_watching = asyncio.create_task(pump(quick))
            await owner.until_frame(owner.frames()[-1][0].seq + 200)
            await slow.until("session.started")
            owning = asyncio.create_task(pump(owner))
            await slow.step_until(
                lambda: bool(slow.frames()) and slow.frames()[-1][0].seq >= owner.frames()[-1][0].seq - 40,
                "frame near the owner's",
            )
            for task in (owning, quick_watching):
                task.cancel()
    for whole in (owner, quick):
        got = [header.seq for header, _ in whole.frames()]
        assert got == list(range(got[0], got[0] + len(got)))
    got = [header.seq for header, _ in slow.frames()]
    gaps = [(a, b) for a, b in zip(got, got[1:], strict=False) if b != a + 1]
    keys = {header.seq for header, _ in slow.frames() if MediaFlags.KEY in header.flags}
    assert gaps
    assert {after for _, after in gaps} <= keys
