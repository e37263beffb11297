"""What waits to be sent on one connection: events and media in order, and never more than a bounded amount."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ultraflash.server.protocol import MediaFlags, MediaHeader, ServerEvent, dump_event

MAX_MEDIA_BYTES = 8 * 1024 * 1024
MAX_EVENTS = 500
POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Ends the connection."""

    code: int
    reason: str


class Outbox:
    """Queue between a session and the socket of its client.

    A client that reads too slowly loses media up to the next keyframe, which is asked for; events are kept, and
    when even those pile up the connection is closed.
    """

    def __init__(self, request_key: Callable[[], None]) -> None:
        self._request_key = request_key
        self._items: deque[str | bytes | Close] = deque()
        self._media_bytes = 0
        self._events = 0
        self._awaiting_key = False
        self._closed = False
        self._filled = asyncio.Event()
        self.dropped_frames = 0

    def put_event(self, event: ServerEvent) -> None:
        """Queues an event."""
        if self._events >= MAX_EVENTS:
            self.drop_media()
            self.close(POLICY_VIOLATION, "the client does not read")
        self._events += 1
        self._put(dump_event(event))

    def put_media(self, header: MediaHeader, payload: bytes) -> None:
        """Queues a media frame, unless frames are being dropped up to the next keyframe."""
        if MediaFlags.KEY in header.flags:
            self._awaiting_key = False
        if self._awaiting_key and MediaFlags.INIT not in header.flags:
            self.dropped_frames += 1
            return
        if self._media_bytes + len(payload) > MAX_MEDIA_BYTES:
            self.drop_media()
            self._awaiting_key = True
            self.dropped_frames += 1
            self._request_key()
            return
        data = header.pack() + payload
        self._media_bytes += len(data)
        self._put(data)

    def drop_media(self) -> None:
        """Forgets the media frames that wait; init segments and events stay."""
        kept: deque[str | bytes | Close] = deque()
        for item in self._items:
            if isinstance(item, bytes) and MediaFlags.INIT not in MediaHeader.unpack(item).flags:
                self._media_bytes -= len(item)
                self.dropped_frames += 1
            else:
                kept.append(item)
        self._items = kept

    def close(self, code: int, reason: str) -> None:
        """Ends the connection once everything before has been sent; nothing is queued any more."""
        self._put(Close(code=code, reason=reason))
        self._closed = True

    async def take(self) -> str | bytes | Close:
        """Waits for the next thing to send."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        if isinstance(item, bytes):
            self._media_bytes -= len(item)
        elif isinstance(item, str):
            self._events -= 1
        return item

    def _put(self, item: str | bytes | Close) -> None:
        if not self._closed:
            self._items.append(item)
            self._filled.set()
