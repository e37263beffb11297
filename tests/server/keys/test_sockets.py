"""The stream of a server that wants keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import websockets
from key_holders import make_key, revoke_key

from ultraflash.server.client import connect
from ultraflash.server.errors import Refused
from ultraflash.server.keys.secret import new_secret

if TYPE_CHECKING:
    from key_holders import Holder
    from live_server import LiveServer


async def test_a_key_comes_as_a_header_or_as_the_first_event(guarded: LiveServer, bob: Holder) -> None:
    async with guarded.client(additional_headers=bob.headers) as client:
        await client.start()
        await client.until_frame(5)
    async with guarded.client() as client:
        await client.send("session.authenticate", key=bob.secret)
        await client.start()
        await client.until_frame(5)


async def test_nothing_is_done_for_a_client_without_a_good_key(guarded: LiveServer, bob: Holder) -> None:
    firsts = [
        {"type": "session.start", "prompt": "a hill"},
        {"type": "session.authenticate", "key": new_secret()},
        {"type": "session.authenticate", "key": ""},
        {"type": "session.ping"},
    ]
    for first in firsts:
        async with guarded.client() as client:
            await client.socket.send(json.dumps(first))
            # It may be closed by now.
            with contextlib.suppress(websockets.ConnectionClosed):
                await client.send("session.start", prompt="a hill")
            assert await client.until_closed() == (1008, "unauthorized")
            assert [(event["type"], event["code"]) for event in client.events] == [("error", "unauthorized")]
    async with guarded.client(additional_headers={"Authorization": f"Bearer {new_secret()}"}) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send("session.authenticate", key=bob.secret)
        assert await client.until_closed() == (1008, "unauthorized")
    async with guarded.client() as client:
        await client.socket.send("no JSON")
        assert await client.until_closed() == (1008, "bad_json")


async def test_a_long_message_is_not_taken_before_the_key(guarded: LiveServer, bob: Holder) -> None:
    long = {"prompt": "a hill", "image": "A" * 70_000}
    async with guarded.client() as client:
        await client.send("session.start", **long)
        assert (await client.until_closed())[0] == 1009
        assert client.events == []
    async with guarded.client() as client:
        await client.send("session.authenticate", key=bob.secret)
        await client.send("session.start", **long)
        await client.until("error", code="bad_reference")


async def test_a_session_is_seen_and_steered_by_its_own_key_alone(guarded: LiveServer, bob: Holder) -> None:
    other = make_key(guarded, "neighbour")
    async with guarded.client(additional_headers=bob.headers) as owner:
        started = await owner.start()
        await owner.until_frame(5)

        def listed(holder: Holder) -> list[str]:
            return [one["id"] for one in guarded.get("/v1/sessions", **holder.headers)[1]["data"]]

        assert listed(bob) == [started["session_id"]]
        assert listed(other) == []
        owner.socket.transport.abort()
    resume = {"session_id": started["session_id"], "resume_token": started["resume_token"]}
    async with guarded.client(additional_headers=other.headers) as thief:
        await thief.send("session.resume", **resume)
        assert (await thief.until("error"))["code"] == "unknown_session"
    async with guarded.client(additional_headers=bob.headers) as owner:
        await owner.send("session.resume", **resume)
        await owner.until("session.resumed")
        await owner.send("session.stop")
        await owner.until("session.done")


async def test_a_viewer_needs_its_token_and_no_key(guarded: LiveServer, bob: Holder) -> None:
    async with guarded.client(additional_headers=bob.headers) as owner:
        started = await owner.start()
        await owner.until_frame(5)
        async with guarded.viewer(started) as viewer:
            await viewer.until("session.started")
        async with guarded.viewer(started, token="wrong") as stranger:
            assert await stranger.until_closed() == (1008, "bad_token")


async def test_the_sessions_of_a_revoked_key_end(guarded: LiveServer) -> None:
    holder = make_key(guarded, "leaked")
    async with guarded.client(additional_headers=holder.headers) as client:
        await client.start()
        await client.until_frame(5)
        revoke_key(guarded, holder)
        assert (await client.until("session.done"))["reason"] == "key_revoked"


async def test_sessions_pixels_and_prompts_of_a_key_have_limits_that_are_said(
    guarded: LiveServer, ann: Holder
) -> None:
    async with guarded.client(additional_headers=ann.headers) as client:
        for fields, code, told in (
            ({"size": "1K", "fps": 17}, "over_limit", str(416 * 240 * 16)),
            ({"prompt": "a hill " * 8}, "prompt_too_long", "may send 40"),
        ):
            await client.send("session.start", **{"prompt": "a hill", **fields})
            refusal = await client.until("error")
            assert (refusal["code"], told in refusal["message"]) == (code, True)
        await client.start(fps=20)
        await client.send("session.control", event_id="larger", size="1K")
        refusal = await client.until("error", event_id="larger")
        assert (refusal["code"], str(416 * 240 * 16) in refusal["message"]) == ("over_limit", True)
        await client.send("prompt.update", event_id="longer", prompt="a hill " * 8)
        assert (await client.until("error", event_id="longer"))["code"] == "prompt_too_long"
        async with guarded.client(additional_headers=ann.headers) as second:
            await second.send("session.start", prompt="a hill")
            code, reason = await second.until_closed()
            assert (code, reason.startswith("Retry-After")) == (1013, True)
            assert second.events[-1]["code"] == "limit_reached"
            assert "1 is its limit" in second.events[-1]["message"]
        await client.until_frame(5)


async def test_the_client_takes_a_key(guarded: LiveServer, bob: Holder) -> None:
    url = f"http://{guarded.address}"
    async with connect(url, prompt="a hill", key=bob.secret) as stream:
        packet = await anext(stream)
        assert packet.key
    with pytest.raises(Refused, match="API key"):
        async with connect(url, prompt="a hill"):
            pass


async def test_the_first_key_closes_a_server_that_runs(start_server: Callable[..., LiveServer]) -> None:
    server = start_server()
    server.wait_until_ready()
    assert server.get("/v1/videos")[0] == 200
    async with server.client() as client:
        await client.send("session.authenticate", key="whatever")
        await client.start()
    holder = make_key(server, "first")
    assert server.get("/v1/videos")[0] == 401
    assert server.get("/v1/videos", **holder.headers)[0] == 200
    revoke_key(server, holder)
    assert server.get("/v1/videos")[0] == 401
