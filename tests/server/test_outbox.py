"""What waits for a slow client stays bounded, and what it loses starts and ends at a keyframe."""

from __future__ import annotations

import asyncio
import json

import pytest

from ultraflash.server.outbox import MAX_EVENTS, MAX_MEDIA_BYTES, Close, Outbox
from ultraflash.server.protocol import MediaFlags, MediaHeader, SessionPong


class KeyRequests:
    """Counts requests for keyframes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def media(seq: int, payload: bytes, flags: int = 0) -> tuple[MediaFlags, bytes]:
    """Arguments of ``put_media``."""
    header = MediaHeader(
        flags=MediaFlags(flags), generation=1, seq=seq, pts_us=seq * 62_500.0, capture_ms=0.0
    )
    return header.flags, header.pack() + payload


async def drain(outbox: Outbox) -> list[object]:
    """Everything that waits: event types, (seq, flags) of media, closes."""
    items: list[object] = []
    while True:
        try:
            item = await asyncio.wait_for(outbox.take(), 0.05)
        except asyncio.TimeoutError:
            return items
        if isinstance(item, bytes):
            read = MediaHeader.unpack(item)
            items.append((read.seq, int(read.flags)))
        else:
            items.append(json.loads(item)["type"] if isinstance(item, str) else item)


async def test_events_and_media_keep_their_order() -> None:
    outbox = Outbox(KeyRequests())
    outbox.put_event(SessionPong(server_ms=0))
    outbox.put_media(*media(0, b"x", MediaFlags.KEY))
    outbox.put_event(SessionPong(server_ms=0))
    outbox.put_media(*media(1, b"x"))
    outbox.close(1000, "done")
    outbox.put_media(*media(2, b"late"))
    assert await drain(outbox) == [
        "session.pong",
        (0, 1),
        "session.pong",
        (1, 0),
        Close(code=1000, reason="done"),
    ]


async def test_a_slow_client_loses_frames_up_to_a_keyframe_that_is_asked_for_once_it_reads_again() -> None:
    requests = KeyRequests()
    outbox = Outbox(requests)
    outbox.put_media(*media(0, b"init", MediaFlags.INIT))
    outbox.put_event(SessionPong(server_ms=0))
    big = bytes(MAX_MEDIA_BYTES // 4)
    for seq in range(8):
        outbox.put_media(*media(seq, big, MediaFlags.KEY if seq == 0 else 0))
    assert requests.count == 0
    assert await drain(outbox) == [(0, 2), "session.pong"]
    assert requests.count == 1
    outbox.put_media(*media(8, big))
    outbox.put_media(*media(9, big, MediaFlags.KEY))
    outbox.put_media(*media(10, big))
    assert await drain(outbox) == [(9, 1), (10, 0)]
    assert requests.count == 1
    assert outbox.dropped_frames == 9


async def test_room_is_free_again_after_sending() -> None:
    outbox = Outbox(KeyRequests())
    for seq in range(20):
        outbox.put_media(*media(seq, bytes(MAX_MEDIA_BYTES // 3), MediaFlags.KEY))
        assert await drain(outbox) == [(seq, 1)]
    assert outbox.dropped_frames == 0


async def test_a_client_that_lets_events_pile_up_is_closed() -> None:
    outbox = Outbox(KeyRequests())
    for _ in range(MAX_EVENTS + 5):
        outbox.put_event(SessionPong(server_ms=0))
    items = await drain(outbox)
    assert len(items) == MAX_EVENTS + 1
    assert items[-1] == Close(code=1008, reason="the client does not read")


@pytest.mark.parametrize("waiting", [True, False])
async def test_taking_waits_for_something_to_come(waiting: bool) -> None:
    outbox = Outbox(KeyRequests())
    if waiting:
        asyncio.get_running_loop().call_later(0.02, outbox.put_event, SessionPong(server_ms=0))
    else:
        outbox.put_event(SessionPong(server_ms=0))
    assert "session.pong" in str(await asyncio.wait_for(outbox.take(), 60))
