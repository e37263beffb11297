"""An owner on a thin connection gets fewer bits rather than later frames."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from throttled_proxy import ThrottledProxy

from ultraflash.server.protocol import MediaFlags, MediaHeader

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

FRAME_MS = 62.5
CEILING = 8_000_000
THIN_BYTES_PER_S = 250_000
PATIENCE_S = 240


async def play(client: StreamClient) -> None:
    """Shows what was received at its rate, and says so, as a player does."""
    shown = -1
    while True:
        await asyncio.sleep(FRAME_MS / 1000)
        if client.frames():
            newest = client.frames()[-1][0].seq
            shown = newest if shown < 0 else min(shown + 1, newest)
            buffered_ms = (newest - shown + 1) * FRAME_MS
            await client.send(
                "playback.ack", seq=shown, pts_us=shown * FRAME_MS * 1000, buffered_ms=buffered_ms
            )


async def come_back(server: LiveServer, started: dict[str, Any]) -> dict[str, Any]:
    """The owner on a new connection, which is not a thin one; what it is told of that."""
    await asyncio.to_thread(
        server.wait_for,
        lambda: (
            [each["state"] for each in server.sessions() if each["id"] == started["session_id"]] == ["away"]
        ),
        "absence",
    )
    async with server.client() as client:
        session, token = started["session_id"], started["resume_token"]
        await client.send("session.resume", session_id=session, resume_token=token)
        return await client.until("quality.changed")


async def test_the_bitrate_falls_to_what_the_connection_carries_and_frames_come_in_time(
    server: LiveServer,
) -> None:
    proxy = ThrottledProxy(server.address, 1e9)
    late_ms: deque[float] = deque(maxlen=30)
    stats: list[dict[str, Any]] = []

    async def receive(client: StreamClient) -> None:
        got: dict[str, Any] | MediaHeader = await client.step()
        if isinstance(got, dict):
            assert got["type"] != "error", got
            stats.extend([got] if got["type"] == "stats" else [])
        elif MediaFlags.INIT not in got.flags:
            late_ms.append(time.time() * 1000 - got.capture_ms)

    async with proxy.running():
        server_address, server.address = server.address, proxy.address
        try:
            async with server.client() as client:
                client.acknowledge = False
                playing = asyncio.create_task(play(client))
                started = await client.start("noise", size="1K")
                await client.send("session.control", event_id="rich", bitrate=CEILING)
                while not stats or stats[-1]["encoded_kbps"] < CEILING / 1000 * 0.6:
                    await receive(client)
                proxy.bytes_per_s = THIN_BYTES_PER_S
                deadline = time.monotonic() + PATIENCE_S
                late_ms.clear()
                while (
                    stats[-1]["encoded_kbps"] > THIN_BYTES_PER_S * 8 / 1000 * 1.1
                    or len(late_ms) < 30
                    # A group of 12 frames is captured at once, and may take as long to arrive as it plays.
                    or max(late_ms) > 12 * FRAME_MS + 600
                ):
                    assert time.monotonic() < deadline, (stats, list(late_ms))
                    await receive(client)
                playing.cancel()
                proxy.cut()
            server.address = server_address
            back = await come_back(server, started)
        finally:
            server.address = server_address
    gaps = [
        after.flags
        for (before, _), (after, _) in zip(client.frames(), client.frames()[1:], strict=False)
        if after.seq != before.seq + 1
    ]
    assert all(flags & MediaFlags.KEY and flags & MediaFlags.DISCONTINUITY for flags in gaps)
    fallen = next(event for event in client.events if event.get("reason") == "connection")
    assert (fallen["type"], fallen["size"]) == ("quality.changed", "1K")
    assert 0 < fallen["bitrate_share"] <= 0.5
    assert 0 < stats[-1]["bitrate_share"] < 0.5
    assert back == {"type": "quality.changed", "size": "1K", "reason": "connection"}
