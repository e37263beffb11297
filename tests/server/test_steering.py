"""What the owner of a session and its viewers are told of the bits that the connection carries."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ultraflash.server.audience import Audience
from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.outbox import Outbox
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.pending_changes import PendingChanges
from ultraflash.server.protocol import SessionStart
from ultraflash.server.seat import Seat
from ultraflash.server.session_identity import first_position
from ultraflash.server.session_trail import SessionTrail
from ultraflash.server.settings import Settings
from ultraflash.server.steering import Steering
from ultraflash.server.tracing import NO_TRACER
from ultraflash.server.worker.supervisor import WorkerSupervisor


async def told_of(*shares: float) -> list[list[dict[str, Any]]]:
    """What the owner hears, and a viewer, when the share goes through these; nobody else sends anything."""
    supervisor = WorkerSupervisor(Settings().configure(None))
    feed = MediaFeed("session_1", supervisor)
    audience = Audience(feed)
    steering = Steering(
        "session_1",
        first_position(SessionStart(prompt="a hill", size="1K")),
        pending=PendingChanges(),
        audience=audience,
        feed=feed,
        supervisor=supervisor,
        trail=SessionTrail(NO_TRACER, "session_1", size="1K", prompt_chars=6),
    )
    outboxes = [Outbox(feed.request_key), Outbox(feed.request_key)]
    audience.welcome_owner(OwnerSeat(outboxes[0], "webcodecs"))
    audience.welcome_viewer(Seat(outboxes[1], "webcodecs"))
    for share in shares:
        steering.set_share(share)
    return [await waiting_in(outbox) for outbox in outboxes]


async def waiting_in(outbox: Outbox) -> list[dict[str, Any]]:
    events = []
    try:
        while True:
            item = await asyncio.wait_for(outbox.take(), 0.05)
            assert isinstance(item, str)
            events.append(json.loads(item))
    except asyncio.TimeoutError:
        return events


async def test_everybody_hears_once_of_half_the_bits_and_once_when_all_are_back() -> None:
    fewer = {"type": "quality.changed", "size": "1K", "reason": "connection", "bitrate_share": 0.49}
    again = {"type": "quality.changed", "size": "1K", "reason": "connection"}
    assert await told_of(0.7, 0.49, 0.343, 0.15, 0.7, 0.98, 1.0) == [[fewer, again]] * 2


async def test_a_short_fall_is_not_announced() -> None:
    assert await told_of(0.7, 0.756, 0.9, 1.0) == [[], []]
