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

    A client that reads too slowly loses media up to a keyframe, which is asked for once it reads again; events are
    kept, and when even those pile up the connection is closed.

    Args:
        request_key: called when media can only go on with a keyframe.
        max_media_bytes: media that may wait.
    """

    def __init__(self, request_key: Callable[[], None], *, max_media_bytes: int = MAX_MEDIA_BYTES) -> None:
        self._request_key = request_key
        self._max_media_bytes = max_media_bytes
        self._items: deque[str | bytes | Close] = deque()
        self._media_bytes = 0
        self._events = 0
        self._awaiting_key = False
        self._key_is_due = False
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

    def put_media(self, flags: MediaFlags, message: bytes) -> None:
        """Queues a media frame, header included, unless frames are being dropped up to a keyframe."""
        if MediaFlags.KEY in flags:
            self._awaiting_key = self._key_is_due = False
        if self._awaiting_key and MediaFlags.INIT not in flags:
            self.dropped_frames += 1
            return
        if self._media_bytes + len(message) > self._max_media_bytes:
            self.dropped_frames += 1
            self.skip_to_key()
            return
        self._media_bytes += len(message)
        self._put(message)

    def skip_to_key(self) -> None:
        """Drops what waits and what comes, up to a keyframe."""
        self.drop_media()
        self._awaiting_key = self._key_is_due = True

    @property
    def has_media(self) -> bool:
        """Whether media waits because the socket takes no more."""
        return self._media_bytes > 0

    def drop_media(self) -> int:
        """Forgets the media frames that wait; init segments and events stay. Returns how many were dropped."""
        dropped = self.dropped_frames
        kept: deque[str | bytes | Close] = deque()
        for item in self._items:
            if isinstance(item, bytes) and MediaFlags.INIT not in MediaHeader.unpack(item).flags:
                self._media_bytes -= len(item)
                self.dropped_frames += 1
            else:
                kept.append(item)
        self._items = kept
        return self.dropped_frames - dropped

    def close(self, code: int, reason: str) -> None:
        """Ends the connection once everything before has been sent; nothing is queued any more."""
        self._put(Close(code=code, reason=reason))
        self._closed = True

    async def take(self) -> str | bytes | Close:
        """Waits for the next thing to send. That it is called shows that the client reads."""
        if self._key_is_due:
            self._key_is_due = False
            self._request_key()
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
