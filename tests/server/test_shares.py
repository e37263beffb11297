"""Several streams and a job on one worker: who gets how much of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from videos_client import make, wait_for

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

FPS = 16
GROUP = 12


async def play(client: StreamClient, seconds: float) -> None:
    """Plays in real time, acknowledging what is on the screen, and waits where nothing is there."""
    client.acknowledge = False
    await client.until_frame(0)
    begun, shown = time.monotonic(), -1
    while shown < seconds * FPS:
        await client.step_within(0.02)
        frames = client.frames()
        due = int((time.monotonic() - begun) * FPS)
        if due >= len(frames):
            begun, due = time.monotonic() - len(frames) / FPS, len(frames) - 1
        if due > shown:
            shown = due
            await client.ack(frames[shown][0])


async def test_owners_that_play_in_real_time_get_their_frames_in_time_while_a_job_goes_on(
    start_server: Any,
) -> None:
    server: LiveServer = start_server(PATTERN_SECONDS=0.04)
    server.wait_until_ready()
    async with server.client() as first, server.client() as second, server.client() as third:
        clients = (first, second, third)
        for client in clients:
            await client.start()
        video = await asyncio.to_thread(make, server, seconds="4", size="224x128")
        await asyncio.gather(*(play(client, 5) for client in clients))
        for client in clients:
            # A machine that is busy with other things may hold everything up for a moment.
            assert (await client.until("stats"))["deadline_misses"] <= 1
        assert (await asyncio.to_thread(wait_for, server, video["id"]))["status"] == "completed"


async def test_owners_that_want_more_than_there_is_get_equal_shares_and_cannot_keep_a_job_from_going_on(
    start_server: Any,
) -> None:
    server: LiveServer = start_server(PATTERN_SECONDS=0.1, jobs__patience_s=0.5)
    server.wait_until_ready()
    async with server.client() as first, server.client() as second, server.client() as third:
        clients = (first, second, third)
        for client in clients:
            await client.start()
        for client in clients:
            await client.until_frame(0)
        before = [client.frames()[-1][0].seq for client in clients]
        video = await asyncio.to_thread(make, server, seconds="2", size="224x128")
        watching = [asyncio.ensure_future(client.until_frame(15 * GROUP)) for client in clients]
        done = await asyncio.to_thread(wait_for, server, video["id"])
        await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        made = [client.frames()[-1][0].seq - was for client, was in zip(clients, before, strict=True)]
        await asyncio.gather(*watching)
    assert done["status"] == "completed"
    assert max(made) - min(made) <= 3 * GROUP
