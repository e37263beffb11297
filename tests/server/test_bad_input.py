"""What a client may do wrong: a typed error, the connection as documented, the server alive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from live_server import LiveServer

START = {"type": "session.start", "prompt": "a hill"}
UPDATE = {"type": "prompt.update", "prompt": "a sea", "event_id": "e"}
CONTROL = {"type": "session.control", "event_id": "e"}

BEFORE_START: list[tuple[str | bytes | dict[str, Any], str]] = [
    ("", "bad_json"),
    ("{", "bad_json"),
    ("[" * 20_000, "bad_json"),
    ('{"type": "session.start", "prompt": "x", "seed": NaN}', "bad_json"),
    ("[1, 2]", "bad_json"),
    ('"session.start"', "bad_json"),
    (b"\x00\xff\xfe binary garbage", "bad_media"),
    ({}, "unknown_event"),
    ({"type": 7}, "unknown_event"),
    ({"type": "session.begin"}, "unknown_event"),
    ({"type": "session.started"}, "unknown_event"),
    ({"type": "session.start"}, "missing_field"),
    ({**START, "promt": "typo"}, "unknown_field"),
    ({**START, "seed": "7"}, "invalid_field"),
    ({**START, "seed": -1}, "invalid_field"),
    ({**START, "seed": 2**63}, "invalid_field"),
    ({**START, "fps": 0}, "invalid_field"),
    ({**START, "fps": 7.5}, "invalid_field"),
    ({**START, "max_frames": 0}, "invalid_field"),
    ({**START, "transport": "rtmp"}, "invalid_field"),
    ({**START, "prompt": "  \n"}, "empty_prompt"),
    ({**START, "prompt": "x" * 1001}, "prompt_too_long"),
    ({**START, "prompt": "refuse me"}, "prompt_too_long"),
    ({**START, "size": "8K"}, "unknown_size"),
    ({**START, "size": "123x45"}, "unknown_size"),
    ({**START, "preset": "giant"}, "unknown_preset"),
    ({**START, "codecs": ["av01.0.05M.08"]}, "unsupported"),
    ({**START, "negative": "fog"}, "unsupported"),
    ({**START, "image": "data:"}, "invalid_field"),
    ({**START, "record": 1}, "invalid_field"),
    (UPDATE, "unexpected_event"),
    ({**CONTROL, "paused": True}, "unexpected_event"),
    ({"type": "playback.ack", "seq": 0, "pts_us": 0}, "unexpected_event"),
    ({"type": "keyframe.request"}, "unexpected_event"),
    ({"type": "session.stop"}, "unexpected_event"),
    ({"type": "session.resume", "session_id": "session_1", "resume_token": ""}, "unknown_session"),
    ({"type": "session.resume", "session_id": "session_1", "last_pts_us": 0}, "missing_field"),
]

WHILE_LIVE: list[tuple[str | bytes | dict[str, Any], str]] = [
    (START, "unexpected_event"),
    (b"\x01" * 40, "bad_media"),
    ({**UPDATE, "prompt": ""}, "empty_prompt"),
    ({**UPDATE, "prompt": "x" * 1001}, "prompt_too_long"),
    ({**UPDATE, "prompt": "refuse me"}, "prompt_too_long"),
    ({**UPDATE, "groups": 2}, "invalid_field"),
    ({**UPDATE, "transition": "blend", "groups": 0}, "invalid_field"),
    ({**UPDATE, "transition": "blend", "groups": 65}, "invalid_field"),
    ({**UPDATE, "transition": "fade", "groups": 0}, "invalid_field"),
    ({**UPDATE, "transition": "wipe"}, "invalid_field"),
    ({**UPDATE, "event_id": ""}, "invalid_field"),
    (CONTROL, "invalid_field"),
    ({**CONTROL, "size": "8K"}, "unknown_size"),
    ({**CONTROL, "bitrate": 1}, "invalid_field"),
    ({"type": "playback.ack", "seq": 10**6, "pts_us": 0}, "ack_out_of_range"),
    ({"type": "playback.ack", "seq": 0, "pts_us": 1e12}, "ack_out_of_range"),
    ({"type": "playback.ack", "seq": 0, "pts_us": -1}, "invalid_field"),
    ({"type": "playback.ack", "seq": 10**400, "pts_us": 0}, "invalid_field"),
    ({"type": "playback.ack", "seq": 0, "pts_us": 10**400}, "invalid_field"),
]


def raw(message: str | bytes | dict[str, Any]) -> str | bytes:
    return json.dumps(message) if isinstance(message, dict) else message


@pytest.mark.parametrize(("message", "code"), BEFORE_START)
async def test_before_the_start_an_error_leaves_the_connection_usable(
    server: LiveServer, message: str | bytes | dict[str, Any], code: str
) -> None:
    async with server.client() as client:
        await client.socket.send(raw(message))
        error = await client.until("error")
        assert (error["code"], error["retryable"]) == (code, False)
        assert error["message"]
        if isinstance(message, dict) and "event_id" in message:
            assert error["event_id"] == "e"
        await client.start(max_frames=1)
        assert await client.until_closed() == (1000, "max_frames")


@pytest.mark.parametrize(("message", "code"), WHILE_LIVE)
async def test_while_live_an_error_leaves_the_stream_as_it_was(
    server: LiveServer, message: str | bytes | dict[str, Any], code: str
) -> None:
    async with server.client() as client:
        await client.start()
        await client.until_frame(3)
        await client.socket.send(raw(message))
        error = await client.until("error")
        assert error["code"] == code
        if isinstance(message, dict) and message.get("event_id"):
            assert error["event_id"] == "e"
        await client.until_frame(client.frames()[-1][0].seq + 20)
        assert [header.seq for header, _ in client.frames()] == list(range(len(client.frames())))
        assert "stream.config" not in client.kinds()[client.kinds().index("error") :]


async def test_errors_say_what_would_be_accepted(server: LiveServer) -> None:
    async with server.client() as client:
        for message, expected in (
            ({**START, "size": "8K"}, "224x128"),
            ({**START, "promt": "x"}, "transport"),
            ({"type": "begin"}, "session.start"),
            ({**START, "prompt": "x" * 1001}, "1000"),
            ({**START, "preset": "giant"}, "pattern"),
        ):
            await client.socket.send(raw(message))
            assert expected in (await client.until("error"))["message"]


async def test_a_ping_is_answered_with_the_clock_at_any_time(server: LiveServer) -> None:
    async with server.client() as client:
        await client.send("session.ping", t=12.5)
        pong = await client.until("session.pong")
        assert pong["t"] == 12.5
        await client.start()
        await client.send("session.ping")
        assert (await client.until("session.pong"))["server_ms"] >= pong["server_ms"]


async def test_a_message_above_the_limit_closes_with_1009(server: LiveServer) -> None:
    async with server.client() as client:
        await client.socket.send(json.dumps({**START, "prompt": "x" * 70_000}))
        assert (await client.until_closed())[0] == 1009


async def test_a_page_of_another_origin_or_host_gets_nothing(server: LiveServer) -> None:
    async with server.client(origin="http://evil.example") as client:
        assert await client.until_closed() == (1008, "origin not allowed")
    async with server.client(origin=f"http://{server.address}") as client:
        await client.start()
    status, body = server.get("/healthz", Host="evil.example")
    assert (status, body["error"]["code"]) == (421, "host_not_allowed")


async def test_impatience_is_configured(start_server: Any) -> None:
    server = start_server(
        stream__max_errors=5, stream__start_timeout_s=4, stream__ack_pause_s=0.3, stream__ack_end_s=5
    )
    server.wait_until_ready()
    async with server.client() as client:
        for _ in range(5):
            await client.socket.send("nonsense")
        assert await client.until_closed() == (1008, "too_many_errors")
        assert [event["code"] for event in client.events] == ["bad_json"] * 5 + ["too_many_errors"]
    async with server.client() as client:
        assert await client.until_closed() == (1008, "start_timeout")
        assert client.events[0]["code"] == "start_timeout"
    async with server.client() as client:
        client.acknowledge = False
        await client.start()
        assert await client.until_closed() == (1000, "no_ack")
        assert client.events[-1]["reason"] == "no_ack"
    async with server.client() as client:
        client.acknowledge = False
        await client.start()
        await client.listen(0.8)
        await client.ack(client.frames()[-1][0])
        client.acknowledge = True
        await client.until_frame(40)


async def test_one_event_id_for_a_prompt_and_a_bad_size_ends_nothing(start_server: Any) -> None:
    server = start_server(PATTERN_SECONDS=0.3)
    server.wait_until_ready()
    worker = server.worker_ids()
    async with server.client() as client, server.client() as other:
        await other.start()
        await client.start()
        await client.send("prompt.update", prompt="a lake", event_id="e")
        await client.until("prompt.applied", event_id="e")
        # While the group of the prompt is being made.
        await client.send("session.control", size="8K", event_id="e")
        assert (await client.until("error"))["code"] == "unknown_size"
        await client.until_frame(60)
        await other.until_frame(60)
    assert server.worker_ids() == worker


async def test_a_change_of_another_kind_cannot_take_the_place_of_one_that_waits(start_server: Any) -> None:
    server = start_server(PATTERN_SECONDS=0.5)
    server.wait_until_ready()
    async with server.client() as client:
        await client.start()
        await client.send("prompt.update", prompt="a lake", event_id="e")
        await client.send("session.control", size="1K", event_id="e")
        error = await client.until("error")
        assert (error["code"], error["event_id"]) == ("invalid_field", "e")
        await client.until("prompt.applied", event_id="e")
