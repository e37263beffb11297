"""The worker is killed and the picture goes on: what the owner sees is what it would have seen anyway."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from live_server import PATIENCE_S
from pattern_engine import read_number
from streams import decoded

from ultraflash.models.cascade import Cascade
from ultraflash.server.engine import CASCADE, engine_transition
from ultraflash.server.protocol import MediaFlags

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient


async def kill_worker(server: LiveServer) -> None:
    os.kill(server.worker_ids()[0], signal.SIGKILL)


def snapshots(server: LiveServer) -> list[Path]:
    return sorted((server.folder / "snapshots").glob("*/*"))


async def test_the_picture_goes_on_at_the_next_frame_after_many_kills(start_server: Any) -> None:
    server = start_server(stream__snapshot_share=1)
    server.wait_until_ready()
    async with server.client() as client, server.client() as slow:
        await client.start("a red hill", seed=7)
        started = await slow.start("a green hill", transport="fmp4")
        async with server.viewer(started) as viewer:
            for kills in range(1, 4):
                newest = 15 + 31 * kills
                await client.until_frame(newest)
                await slow.until_frame(newest)
                await kill_worker(server)
                for one in (client, slow, viewer):
                    await one.until("error", code="engine_restarting")
                    resumed = await one.until("session.resumed")
                    assert resumed["state"] == "restored"
                    config = await one.until("stream.config")
                    assert config["generation"] == kills + 1
            await client.until_frame(150)
            assert len(snapshots(server)) == 6
            await slow.send("session.stop")
            await slow.until("session.done")
        await client.send("session.stop")
        done = await client.until("session.done")
    headers = [header for header, _ in client.frames()]
    assert [header.seq for header in headers] == list(range(len(headers)))
    assert [read_number(frame) for frame in decoded(client)] == list(range(len(headers)))
    assert sum(MediaFlags.KEY in header.flags for header in headers) == 4
    assert not any(MediaFlags.DISCONTINUITY in header.flags for header in headers)
    assert [event["group"] for event in done["replay"]["events"]] == [0]
    assert 'ultraflash_streams_resumed_total{state="restored"} 6.0' in server.get("/metrics")[1]
    await asyncio.to_thread(server.wait_for, lambda: not snapshots(server), "tidying")


async def test_what_was_asked_for_before_the_session_began_outlives_the_worker(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    (worker,) = server.worker_ids()
    # It is told everything, and says nothing any more.
    os.kill(worker, signal.SIGSTOP)
    async with server.client() as client:
        await client.send("session.start", prompt="a red hill", seed=7)
        await client.send("prompt.update", prompt="a blue hill", event_id="early")
        await client.send("session.control", size="1K", bitrate=300_000, event_id="larger")
        await client.send("session.ping")
        await client.until("session.pong")
        os.kill(worker, signal.SIGKILL)
        await client.until("session.started")
        # Reports of each second would be waited for without end.
        applied = await asyncio.wait_for(client.until("prompt.applied", event_id="early"), PATIENCE_S)
        assert applied["first_pts_us"] == 0
        await asyncio.wait_for(client.until("quality.changed", size="1K", reason="requested"), PATIENCE_S)
        await client.until_frame(30)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert [event.get("prompt") for event in done["replay"]["events"]] == ["a red hill", "a blue hill", None]


async def test_a_torn_state_is_not_gone_on_with(start_server: Any) -> None:
    server = start_server(stream__snapshot_share=1)
    server.wait_until_ready()
    async with server.client() as client:
        client.acknowledge = False
        await client.start()
        await client.until_frame(20)
        await client.listen(0.5)  # until it rests, as far ahead as it may be
        for path in snapshots(server):
            path.write_bytes(path.read_bytes()[:-1])
        await kill_worker(server)
        await client.until("error", code="engine_restarting")
        await client.until("session.resumed", state="restarted")
    assert "is torn" in server.output()


async def come_back(
    server: LiveServer, lost: StreamClient, started: dict[str, Any], client: StreamClient
) -> None:
    """Resumes a session on a new connection."""
    newest = lost.frames()[-1][0].pts_us if lost.frames() else None
    await client.send(
        "session.resume",
        session_id=started["session_id"],
        resume_token=started["resume_token"],
        last_pts_us=newest,
    )
    await client.until("session.resumed", state="rejoined")


async def kill_server(server: LiveServer) -> None:
    """Kills it and starts it again."""
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await asyncio.to_thread(server.start)


async def test_a_session_outlives_its_server(start_server: Any) -> None:
    server = start_server(stream__snapshot_share=1)
    server.wait_until_ready()
    async with server.client() as first:
        started = await first.start("a red hill", seed=7)
        await first.send("prompt.update", prompt="a blue hill", event_id="turn")
        await first.until("prompt.applied")
        await first.until_frame(70)
        await asyncio.to_thread(
            server.wait_for, lambda: stored(server, started)["frames"] > 0, "the session in the database"
        )
        await kill_server(server)
        await first.until_closed()
    assert stored(server, started)["state"] == "interrupted"
    async with server.viewer(started) as viewer:
        await viewer.until("session.started")
        async with server.client() as second:
            await come_back(server, first, started, second)
            await second.until("session.resumed", state="restored")
            await second.until_frame(first.frames()[-1][0].seq + 40)
            await viewer.until_frame(first.frames()[-1][0].seq + 10)
            await second.send("session.stop")
            done = await second.until("session.done")
    first.media += second.media
    assert [header.seq for header, _ in first.frames()] == list(range(done["frames"]))[: len(first.frames())]
    assert [read_number(frame) for frame in decoded(first)] == list(range(len(first.frames())))
    assert [event["prompt"] for event in done["replay"]["events"]] == ["a red hill", "a blue hill"]
    await asyncio.to_thread(
        server.wait_for, lambda: stored(server, started)["state"] == "ended", "the end in the database"
    )
    known = stored(server, started, started["resume_token"])
    assert known["replay"] == done["replay"]
    assert (known["reason"], known["frames"]) == ("stopped", done["frames"])


async def test_a_session_that_nobody_comes_back_to_can_be_looked_up(start_server: Any) -> None:
    server = start_server(stream__resume_s=1)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("a red hill", seed=7)
        await client.until_frame(20)
        await asyncio.to_thread(
            server.wait_for, lambda: stored(server, started).get("id") is not None, "the session"
        )
        await kill_server(server)
    await asyncio.to_thread(server.wait_for, lambda: not server.sessions(), "the end of waiting")
    assert stored(server, started)["state"] == "interrupted"
    assert stored(server, started, started["resume_token"])["replay"]["events"][0]["prompt"] == "a red hill"
    assert stored(server, started, started["viewer_token"])["error"]["code"] == "bad_token"
    listed = server.get("/v1/sessions?state=interrupted")[1]["data"]
    assert [session["id"] for session in listed] == [started["session_id"]]
    assert "a red hill" not in str(listed)
    assert server.get("/v1/sessions/session_0")[0] == 404
    async with server.client() as late:
        await late.send(
            "session.resume", session_id=started["session_id"], resume_token=started["resume_token"]
        )
        assert (await late.until("error"))["code"] == "unknown_session"
    assert not snapshots(server)


def stored(server: LiveServer, started: dict[str, Any], token: str = "") -> dict[str, Any]:
    """What ``GET /v1/sessions/{id}`` says."""
    answer: dict[str, Any] = server.get(f"/v1/sessions/{started['session_id']}?token={token}")[1]
    return answer


async def test_mini_shows_what_an_undisturbed_stream_shows(start_server: Any) -> None:
    """One prompt before the kill, one that waits at the kill."""
    server = start_server(engine=CASCADE, stream__snapshot_share=1)
    server.wait_until_ready()
    async with server.client() as client:
        await client.start("a lighthouse by the sea at dawn", seed=7, size="0.5K")
        await client.until_frame(0)
        await client.send("prompt.update", prompt="a lighthouse by the sea at night", event_id="before")
        await client.until("prompt.applied", event_id="before")
        client.acknowledge = False
        await client.until_frame(client.frames()[-1][0].seq + 3)
        await client.send("prompt.update", prompt="a desert at noon", event_id="waiting")
        await kill_worker(server)
        await client.until("error", code="engine_restarting")
        resumed = await client.until("session.resumed")
        killed_at = len(client.frames())
        client.acknowledge = True
        await client.ack(client.frames()[-1][0])
        applied = await client.until("prompt.applied", event_id="waiting")
        await client.until_frame(round(applied["first_pts_us"] * 16 / 1e6) + 8)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert resumed["state"] == "restored"
    assert resumed["first_pts_us"] == client.frames()[killed_at][0].pts_us
    assert MediaFlags.KEY in client.frames()[killed_at][0].flags
    assert [header.seq for header, _ in client.frames()] == list(range(len(client.frames())))
    shown = decoded(client)
    expected = await asyncio.to_thread(made_again, done["replay"], len(shown))
    noise = [psnr(one, other) for one, other in zip(shown, expected, strict=True)]
    # Encoding is all that lies between them, behind the kill as before it.
    assert min(noise) > 26, noise
    assert np.mean(noise[killed_at:]) > np.mean(noise[:killed_at]) - 3, noise


def made_again(replay: dict[str, Any], frames: int) -> list[np.ndarray]:
    """The frames of a session by its log, from one state of one engine."""
    begin, *changes = replay["events"]
    assert not any(change.get("restarted") for change in changes)
    cascade = Cascade.load("mini")
    state = cascade.open(begin["prompt"], size=begin["size"], seed=replay["seed"])
    made: list[np.ndarray] = []
    while len(made) < frames:
        for change in changes:
            if change["group"] == state.groups:
                transition = engine_transition(change.get("transition", "cut"))
                cascade.set_prompt(
                    state, change["prompt"], transition=transition, groups=change.get("groups", 1)
                )
        made += list(cascade.next_group(state).numpy())
    return made[:frames]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
