"""An owner whose connection is lost comes back to its session, and nobody else does."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from typing import TYPE_CHECKING, Any

import av
from pattern_engine import read_number

from ultraflash.server.protocol import MediaFlags

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

FRAME_US = 1e6 / 16


def state_of(server: LiveServer, started: dict[str, Any]) -> str | None:
    """How ``GET /v1/sessions`` lists a session, if it does."""
    states = {session["id"]: str(session["state"]) for session in server.sessions()}
    return states.get(started["session_id"])


async def lose(server: LiveServer, client: StreamClient, started: dict[str, Any]) -> None:
    """Cuts a connection without a word, and waits until the server knows."""
    client.socket.transport.abort()
    await asyncio.to_thread(server.wait_for, lambda: state_of(server, started) == "away", "absence")


async def resume(client: StreamClient, started: dict[str, Any], **fields: Any) -> dict[str, Any]:
    await client.send(
        "session.resume", session_id=started["session_id"], resume_token=started["resume_token"], **fields
    )
    return await client.until("session.resumed")


def decoded_numbers(data: bytes) -> list[int]:
    with av.open(io.BytesIO(data), format="h264") as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


async def test_the_owner_goes_on_where_it_was_without_a_missing_frame(server: LiveServer) -> None:
    async with server.client() as first:
        started = await first.start("a red hill", seed=3)
        await first.until_frame(30)
        await lose(server, first, started)
    received = first.frames()
    async with server.client() as second:
        resumed = await resume(second, started, last_pts_us=received[-1][0].pts_us)
        await second.until_frame(received[-1][0].seq + 40)
        await second.send("prompt.update", prompt="a blue hill", event_id="turn")
        await second.until("prompt.applied", event_id="turn")
        await second.send("session.stop")
        done = await second.until("session.done")
    assert (resumed["state"], resumed["session_id"]) == ("continued", started["session_id"])
    assert resumed["first_pts_us"] == received[-1][0].pts_us + FRAME_US
    assert "stream.config" not in second.kinds()
    both = [*received, *second.frames()]
    assert [header.seq for header, _ in both] == list(range(len(both)))
    assert [header.seq for header, _ in both if MediaFlags.KEY in header.flags] == [0]
    assert decoded_numbers(b"".join(data for _, data in both)) == list(range(len(both)))
    assert done["reason"] == "stopped"
    assert [event["prompt"] for event in done["replay"]["events"]] == ["a red hill", "a blue hill"]


async def test_an_owner_that_has_nothing_any_more_starts_on_a_keyframe(server: LiveServer) -> None:
    async with server.client() as first:
        started = await first.start(transport="fmp4")
        await first.until_frame(60)
        await lose(server, first, started)
    async with server.client() as second:
        resumed = await resume(second, started)
        await second.until("stream.config", container="fmp4")
        await second.until_frame(first.frames()[-1][0].seq + 30)
    assert resumed["state"] == "rejoined"
    header = second.frames()[0][0]
    assert MediaFlags.KEY in header.flags
    with av.open(io.BytesIO(b"".join(data for _, data in second.media)), format="mp4") as container:
        shown = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown == list(range(header.seq, header.seq + len(shown)))


async def test_acknowledgements_that_were_lost_with_the_connection_are_not_waited_for(
    server: LiveServer,
) -> None:
    async with server.client() as first:
        started = await first.start()
        await first.until_frame(60)
        first.acknowledge = False
        await first.until_frame(80)
        await first.listen(1)  # until it rests, as far ahead as it may be
        await lose(server, first, started)
    async with server.client() as second:
        resumed = await resume(second, started)
        await second.until_frame(first.frames()[-1][0].seq + 30)
    assert resumed["state"] == "rejoined"
    assert MediaFlags.KEY in second.frames()[0][0].flags


async def test_nothing_is_made_while_the_owner_is_away_and_viewers_see_it_come_back(
    server: LiveServer,
) -> None:
    async with server.client() as first:
        started = await first.start()
        await first.until_frame(30)
        async with server.viewer(started) as viewer:
            await viewer.until("session.started")
            await lose(server, first, started)
            await viewer.listen(2)
            last = viewer.frames()[-1][0].seq
            await viewer.listen(1)
            assert viewer.frames()[-1][0].seq == last
            async with server.client() as second:
                await resume(second, started, last_pts_us=first.frames()[-1][0].pts_us)
                await second.until_frame(last + 20)
            await viewer.until_frame(last + 5)
    seen = [header.seq for header, _ in viewer.frames()]
    assert seen == list(range(seen[0], seen[0] + len(seen)))


async def test_a_second_owner_and_a_wrong_token_are_refused(server: LiveServer) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(5)
        async with server.client() as other:
            await other.send(
                "session.resume",
                session_id=started["session_id"],
                resume_token=started["resume_token"],
                last_pts_us=0,
            )
            error = await other.until("error")
            assert (error["code"], error["retryable"]) == ("owner_present", True)
            assert (await other.until_closed())[0] == 1013
        await lose(server, owner, started)
    async with server.client() as thief:
        for token in (started["viewer_token"], "", "x" * 32):
            await thief.send("session.resume", session_id=started["session_id"], resume_token=token)
            assert (await thief.until("error"))["code"] == "bad_token"
        await resume(thief, started)
        await thief.send("session.start", prompt="another")
        assert (await thief.until("error"))["code"] == "unexpected_event"


async def test_an_owner_that_stays_away_loses_its_session(start_server: Any) -> None:
    server = start_server(stream__resume_s=1)
    server.wait_until_ready()
    async with server.client() as first:
        started = await first.start()
        await first.until_frame(5)
        first.socket.transport.abort()
    await asyncio.to_thread(server.wait_for, lambda: not server.sessions(), "end")
    assert 'ended_total{reason="disconnected"} 1.0' in server.get("/metrics")[1]
    async with server.client() as second:
        await second.send(
            "session.resume", session_id=started["session_id"], resume_token=started["resume_token"]
        )
        assert (await second.until("error"))["code"] == "unknown_session"
        await second.start()
        await second.until_frame(5)


async def test_what_ended_while_the_owner_was_away_is_still_delivered(start_server: Any) -> None:
    server = start_server(stream__paused_end_s=2)
    server.wait_until_ready()
    async with server.client() as first:
        started = await first.start()
        await first.until_frame(12)
        await lose(server, first, started)
    await asyncio.to_thread(server.wait_for, lambda: not server.sessions(), "end")
    async with server.client() as second:
        await resume(second, started, last_pts_us=first.frames()[-1][0].pts_us)
        done = await second.until("session.done")
        assert await second.until_closed() == (1000, "paused_too_long")
    both = [header.seq for header, _ in [*first.frames(), *second.frames()]]
    assert both == list(range(done["frames"]))


async def test_a_worker_that_dies_while_the_owner_is_away_is_no_loss(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as first:
        started = await first.start(size="1K")
        await first.until_frame(20)
        await lose(server, first, started)
    os.kill(server.worker_ids()[0], signal.SIGKILL)
    server.wait_for_metric("ultraflash_worker_restarts 1.0")
    server.wait_until_ready()
    async with server.client() as second:
        await second.send(
            "session.resume",
            session_id=started["session_id"],
            resume_token=started["resume_token"],
            last_pts_us=first.frames()[-1][0].pts_us,
        )
        await second.until("error", code="engine_restarting")
        await second.until("session.resumed", state="restored")
        await second.until("session.resumed", state="continued")
        await second.until("stream.config", size="1K")
        await second.until_frame(first.frames()[-1][0].seq + 30)
    both = [header.seq for header, _ in [*first.frames(), *second.frames()]]
    assert both == list(range(len(both)))
