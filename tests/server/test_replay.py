"""A session made again as a video shows the frames that it showed; who may ask for one, and by what."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from videos_client import ask, download, pictures, wait_for

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient


def shown(client: StreamClient) -> list[np.ndarray]:
    """The frames that a client received, decoded."""
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(data) for _, data in client.frames()]
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return [
        frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        for frame in frames
    ]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether the pictures are the same but for what two encoders make of them."""
    return len(one) == len(other) and all(
        np.abs(a.astype(float) - b.astype(float)).mean() < 4 for a, b in zip(one, other, strict=True)
    )


def replayed(server: LiveServer, session_id: str, **fields: Any) -> dict[str, Any]:
    answer = ask(server, "POST", f"/v1/sessions/{session_id}/replay", fields)
    assert answer.status == 200, answer.body
    video = wait_for(server, answer.json["id"])
    assert video["status"] == "completed", video
    return video


async def steered(client: StreamClient, **fields: Any) -> dict[str, Any]:
    """A session whose prompt is cut and then blended, to its end."""
    await client.start("a red hill", seed=9, **fields)
    await client.until_frame(20)
    await client.send("prompt.update", prompt="a blue sea", event_id="cut")
    await client.until("prompt.applied")
    await client.send("prompt.update", prompt="a town", event_id="blend", transition="blend", groups=3)
    await client.until("prompt.applied", event_id="blend")
    return await client.until("session.done")


async def test_a_replay_of_a_log_shows_what_the_stream_showed(server: LiveServer) -> None:
    async with server.client() as client:
        done = await steered(client, max_frames=110)
        frames = shown(client)
    assert done["replay"]["frames"] == len(frames) == 110
    video = await asyncio.to_thread(replayed, server, "session_forgotten", replay=done["replay"])
    assert (video["num_frames"], video["seed"], video["size"]) == (110, 9, "224x128")
    assert same(pictures(download(server, video["id"])), frames)
    # Frames of another time would not pass.
    assert not same(frames[1:], frames[:-1])


async def test_a_replay_can_have_another_size_and_length(server: LiveServer) -> None:
    async with server.client() as client:
        done = await steered(client, max_frames=110)
        frames = shown(client)
    larger = await asyncio.to_thread(
        replayed, server, "session_x", replay=done["replay"], size="1K", seconds="3"
    )
    assert (larger["size"], larger["num_frames"]) == ("416x240", 48)
    for frame, small in zip(pictures(download(server, larger["id"])), frames, strict=False):
        assert np.abs(frame[200, 200].astype(float) - small[100, 100]).max() < 8


async def test_a_session_that_is_known_is_replayed_for_its_owner(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start("a hill", seed=9, size="1K", max_frames=45)
        path = f"/v1/sessions/{started['session_id']}/replay"
        await client.until_frame(30)
        for fields in ({}, {"token": started["viewer_token"]}, {"token": "x"}):
            answer = await asyncio.to_thread(ask, server, "POST", path, fields)
            assert (answer.status, answer.code) == (403, "bad_token")
        token = {"token": started["resume_token"]}
        answer = await asyncio.to_thread(ask, server, "POST", path, token)
        assert (answer.status, answer.json["size"]) == (200, "416x240")
        assert answer.json["num_frames"] >= 31
        await client.until("session.done")
    await asyncio.to_thread(server.wait_for, lambda: not server.sessions(), "end")
    answer = await asyncio.to_thread(ask, server, "POST", path, token)
    assert answer.status == 200, answer.body
    assert answer.json["num_frames"] == 45


async def test_a_recorded_session_is_replayed_long_after(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start("a hill", seed=9, record=True, max_frames=33)
        done = await client.until("session.done")
        frames = shown(client)
    (address,) = done["recording"]
    token = address.partition("token=")[2].partition("&")[0]
    await asyncio.to_thread(server.wait_for, lambda: not server.sessions(), "end")
    video = await asyncio.to_thread(replayed, server, started["session_id"], token=token)
    assert same(pictures(download(server, video["id"])), frames)
    answer = ask(server, "POST", f"/v1/sessions/{started['session_id']}/replay", {"token": "x"})
    assert (answer.status, answer.code) == (403, "bad_token")


async def test_what_a_new_worker_began_anew_begins_anew_in_the_replay(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as client:
        await client.start("a hill", seed=9, max_frames=90)
        await client.until_frame(25)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await client.until("error", code="engine_restarting")
        await client.until("session.resumed")
        await client.send("prompt.update", prompt="a lake", event_id="e")
        done = await client.until("session.done")
        frames = shown(client)
    video = await asyncio.to_thread(replayed, server, "session_x", replay=done["replay"])
    assert same(pictures(download(server, video["id"])), frames)


def test_what_is_no_log_is_refused_in_words(server: LiveServer) -> None:
    event = {"first_pts_us": 0.0, "group": 0, "prompt": "a hill", "size": "0.5K"}
    log: dict[str, Any] = {"model": "pattern", "seed": 1, "fps": 16, "frames": 20, "events": [event]}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"events": []}, 400, "invalid_field"),
        ({"events": [{**event, "first_pts_us": 1e6}]}, 400, "invalid_field"),
        (
            {"events": [event, {**event, "first_pts_us": 2e6}, {**event, "first_pts_us": 1e6}]},
            400,
            "invalid_field",
        ),
        ({"events": [{**event, "prompt": " "}]}, 400, "empty_prompt"),
        ({"events": [event, {**event, "first_pts_us": 1e6, "prompt": "refuse me"}]}, 400, "prompt_too_long"),
        ({"events": [{**event, "size": "8K"}]}, 400, "unknown_size"),
        ({"events": [{**event, "groups": 5}]}, 400, "invalid_field"),
        ({"events": [{**event, "mood": "calm"}]}, 400, "unknown_field"),
        ({"model": "other"}, 400, "unknown_preset"),
        ({"frames": 0}, 400, "invalid_field"),
        ({"frames": 100_000}, 400, "invalid_field"),
        ({"fps": 0}, 400, "invalid_field"),
        ({"seed": -1}, 400, "invalid_field"),
    ]
    for wrong, status, code in cases:
        answer = ask(server, "POST", "/v1/sessions/session_x/replay", {"replay": {**log, **wrong}})
        assert (answer.status, answer.code) == (status, code), wrong
    answer = ask(server, "POST", "/v1/sessions/session_x/replay", {"replay": log, "size": "8K"})
    assert (answer.status, answer.code) == (400, "unknown_size")
    answer = ask(server, "POST", "/v1/sessions/session_x/replay", {})
    assert (answer.status, answer.code) == (404, "unknown_session")
    assert "send its log" in answer.json["error"]["message"]


async def test_a_session_that_has_not_begun_cannot_be_replayed_yet(start_server: Any) -> None:
    # The first session keeps the engine for long enough that the second one is not opened meanwhile.
    server = start_server(PATTERN_SECONDS=8)
    server.wait_until_ready()
    async with server.client() as first, server.client() as second:
        started = await first.start()
        await second.send("session.start", prompt="a hill")
        await asyncio.to_thread(server.wait_for, lambda: len(server.sessions()) == 2, "second session")
        listed = {session["id"] for session in server.sessions()}
        (waiting,) = listed - {started["session_id"]}
        answer = await asyncio.to_thread(ask, server, "POST", f"/v1/sessions/{waiting}/replay", {})
        assert (answer.status, answer.code) == (404, "unknown_session")
