"""The client that comes with the package, against a real server and connections that break."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import av
import pytest
from pattern_engine import read_number
from throttled_proxy import ThrottledProxy

from ultraflash.server.client import FramePacket, connect
from ultraflash.server.errors import BadOption, ConnectionLost, Refused
from ultraflash.server.protocol import PromptApplied, SessionResumed

if TYPE_CHECKING:
    from live_server import LiveServer


def numbers(packets: list[FramePacket]) -> list[int]:
    data = b"".join(packet.data for packet in packets)
    with av.open(io.BytesIO(data), format="h264") as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


async def test_frames_come_in_order_until_the_session_is_done(server: LiveServer) -> None:
    async with connect(server.address, prompt="a hill", seed=4, max_frames=40) as stream:
        packets = [packet async for packet in stream]
    assert (stream.started.seed, stream.started.model) == (4, "pattern")
    assert [packet.header.seq for packet in packets] == list(range(40))
    assert (packets[0].key, packets[0].config.width) == (True, 224)
    assert numbers(packets) == list(range(40))
    assert stream.done is not None
    assert stream.done.reason == "max_frames"


async def test_prompt_and_size_can_be_changed_on_the_way(server: LiveServer) -> None:
    events: list[Any] = []
    async with connect(f"http://{server.address}/", prompt="a hill", on_event=events.append) as stream:
        asked = None
        async for packet in stream:
            if packet.header.seq == 20:
                asked = await stream.set_prompt("a sea")
                await stream.control(size="1K")
            if packet.config.width == 416:
                await stream.stop()
    (applied,) = [event for event in events if isinstance(event, PromptApplied)]
    assert applied.event_id == asked
    assert stream.done is not None
    assert stream.done.replay is not None
    assert [event.get("size") for event in stream.done.replay["events"]] == ["0.5K", None, "1K"]


async def test_a_prompt_can_fade_or_blend_into_the_next(server: LiveServer) -> None:
    async with connect(server.address, prompt="a hill") as stream:
        async for packet in stream:
            if packet.header.seq == 20:
                await stream.set_prompt("a sea", transition="fade", groups=3)
            if packet.header.seq == 80:
                await stream.set_prompt("a lake", transition="blend")
            if packet.header.seq == 140:
                await stream.stop()
    assert stream.done is not None
    assert stream.done.replay is not None
    changes = [
        (event["prompt"], event["transition"], event["groups"]) for event in stream.done.replay["events"][1:]
    ]
    assert changes == [("a sea", "fade", 3), ("a lake", "blend", 4)]


async def test_a_lost_connection_is_made_again_and_no_frame_is_missing(server: LiveServer) -> None:
    proxy = ThrottledProxy(server.address, 1e9)
    events: list[Any] = []
    async with (
        proxy.running(),
        connect(f"ws://{proxy.address}", prompt="a hill", on_event=events.append) as stream,
    ):
        packets: list[FramePacket] = []
        async for packet in stream:
            packets.append(packet)
            if len(packets) in (30, 60):
                proxy.cut()
            if len(packets) == 45:
                await stream.set_prompt("a sea")
            if len(packets) == 100:
                break
    assert stream.resumptions == 2
    assert [event.state for event in events if isinstance(event, SessionResumed)] == ["continued"] * 2
    assert [packet.header.seq for packet in packets] == list(range(100))
    assert numbers(packets) == list(range(100))
    assert any(isinstance(event, PromptApplied) for event in events)


async def test_a_viewer_watches_and_comes_back_too(server: LiveServer) -> None:
    proxy = ThrottledProxy(server.address, 1e9)

    async def own(stream: Any) -> None:
        async for _ in stream:
            await asyncio.sleep(0)

    async with proxy.running(), connect(server.address, prompt="a hill") as owned:
        owning = asyncio.create_task(own(owned))
        started = owned.started
        async with connect(proxy.address, session=started.session_id, token=started.viewer_token) as watching:
            seen: list[FramePacket] = []
            async for packet in watching:
                seen.append(packet)
                if len(seen) == 20:
                    proxy.cut()
                if len(seen) == 60:
                    break
        owning.cancel()
    assert watching.resumptions == 1
    assert seen[0].key
    for before, after in zip(seen, seen[1:], strict=False):
        # Either it joined just behind a keyframe, and nothing is missing, or it goes on with a new one.
        assert after.header.seq == before.header.seq + 1 or (
            after.key and after.header.seq > before.header.seq
        )


async def test_what_the_server_refuses_is_raised_with_its_code(server: LiveServer) -> None:
    with pytest.raises(Refused, match="8K") as caught:
        async with connect(server.address, prompt="a hill", size="8K"):
            pass
    assert (caught.value.code, caught.value.retryable) == ("unknown_size", False)
    with pytest.raises(Refused) as caught:
        async with connect(server.address, session="session_0", token="x"):
            pass
    assert caught.value.code == "unknown_session"


async def test_a_server_that_stays_away_is_given_up(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()

    async def watch_it_stop() -> None:
        async with connect(server.address, prompt="a hill", patience_s=1) as stream:
            async for packet in stream:
                if packet.header.seq == 5:
                    await asyncio.to_thread(server.stop)

    with pytest.raises(ConnectionLost):
        await watch_it_stop()
    with pytest.raises(ConnectionLost, match="no stream at"):
        async with connect(server.address, prompt="a hill"):
            pass


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://127.0.0.1:1", {}),
        ("http://127.0.0.1:1", {"prompt": "a", "session": "b", "token": "c"}),
        ("http://127.0.0.1:1", {"session": "b"}),
        ("http://127.0.0.1:1", {"session": "b", "token": "c", "size": "1K"}),
        ("ftp://127.0.0.1", {"prompt": "a"}),
    ],
)
async def test_unclear_wishes_are_refused_before_anything_is_asked(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        async with connect(url, **options):
            pass
