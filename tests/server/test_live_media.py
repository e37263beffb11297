"""Live sessions over plain HTTP, opened by FFmpeg as its users would."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import av
import pytest
from pattern_engine import read_number

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

PROBED = ("codec_name", "profile", "width", "height", "pix_fmt", "r_frame_rate", "color_space")
FORMATS = pytest.mark.parametrize("name", ["live.mp4", "live.ts"])


def address(server: LiveServer, started: dict[str, Any], name: str) -> str:
    return f"http://{server.address}/v1/stream/{started['session_id']}/{name}?token={started['viewer_token']}"


def watch(url: str, count: int) -> list[tuple[float, int]]:
    """Time and number of the first frames that FFmpeg decodes of a live address."""
    seen = []
    with av.open(url) as container:
        for frame in container.decode(video=0):
            seen.append((float(frame.pts * frame.time_base), read_number(frame.to_ndarray(format="rgb24"))))
            if len(seen) == count:
                break
    return seen


async def pump(client: StreamClient) -> None:
    while True:
        await client.step()


@FORMATS
async def test_ffmpeg_opens_a_live_session_in_its_middle(server: LiveServer, name: str) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(60)
        owning = asyncio.create_task(pump(owner))
        seen = await asyncio.to_thread(watch, address(server, started, name), 40)
        await asyncio.to_thread(
            server.wait_for, lambda: all(one["viewers"] == 0 for one in server.sessions()), "empty seats"
        )
        owning.cancel()
    numbers = [number for _, number in seen]
    assert numbers[0] > 20
    assert numbers == list(range(numbers[0], numbers[0] + 40))
    times = [time for time, _ in seen]
    assert [b - a for a, b in zip(times, times[1:], strict=False)] == pytest.approx([1 / 16] * 39, abs=2e-3)


@FORMATS
async def test_the_response_ends_with_the_session_and_needs_a_token(server: LiveServer, name: str) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(5)
        for url, expected in (
            (f"/v1/stream/{started['session_id']}/{name}", (403, "bad_token")),
            (f"/v1/stream/session_0/{name}?token=x", (404, "unknown_session")),
        ):
            status, body = server.get(url)
            assert (status, body["error"]["code"]) == expected
        watching = asyncio.create_task(asyncio.to_thread(watch, address(server, started, name), 1_000_000))
        await owner.step_until(lambda: any(one["viewers"] for one in server.sessions()), "viewer")
        await owner.until_frame(owner.frames()[-1][0].seq + 30)
        await owner.listen(0.5)
        await owner.send("session.stop")
        await owner.until_closed()
        seen = await asyncio.wait_for(watching, 120)
    assert len(seen) > 10
    status, body = server.get(address(server, started, name).split(server.address)[1])
    assert (status, body["error"]["code"]) == (404, "unknown_session")


@FORMATS
@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs the command ffprobe")
async def test_ffprobe_describes_a_live_session(
    server: LiveServer, name: str, record_property: Callable[[str, object], None]
) -> None:
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(10)
        owning = asyncio.create_task(pump(owner))
        command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", "-read_intervals", "%+1"]
        probe = await asyncio.to_thread(
            subprocess.run,
            [*command, address(server, started, name)],
            check=True,
            capture_output=True,
            timeout=120,
        )
        owning.cancel()
    (stream,) = json.loads(probe.stdout)["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 224, 128)
    assert stream["color_space"] == "bt709"
    record_property("ffprobe", json.dumps({name: {field: stream[field] for field in PROBED}}))
