"""Who watches a session: one owner, who may be away for a while, and any number of viewers."""

from __future__ import annotations

from collections import deque

from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.protocol import ServerEvent, SessionDone
from ultraflash.server.seat import Seat

MAX_MISSED = 200


class Audience:
    """Their seats. What the owner misses while it is away is kept, the oldest being given up first."""

    def __init__(self, feed: MediaFeed) -> None:
        self.owner: OwnerSeat | None = None
        self.viewers: list[Seat] = []
        self._feed = feed
        self._missed: deque[ServerEvent] = deque(maxlen=MAX_MISSED)

    def welcome_owner(self, seat: OwnerSeat) -> None:
        """Seats the owner, who hears what it has missed."""
        self.owner = seat
        while self._missed:
            seat.tell(self._missed.popleft())

    def owner_left(self) -> None:
        """Keeps the owner's place."""
        if self.owner is not None:
            self._feed.leave(self.owner)
            self.owner = None

    def welcome_viewer(self, seat: Seat) -> None:
        """Seats a viewer."""
        self.viewers.append(seat)
        self._feed.join(seat)

    def viewer_left(self, seat: Seat) -> None:
        """Clears a viewer's place."""
        self._feed.leave(seat)
        if seat in self.viewers:
            self.viewers.remove(seat)

    def tell_owner(self, event: ServerEvent) -> None:
        """Tells the owner, now or when it is back."""
        if self.owner is not None:
            self.owner.tell(event)
        else:
            self._missed.append(event)

    def tell_viewers(self, event: ServerEvent) -> None:
        """Tells all viewers."""
        for seat in self.viewers:
            seat.tell(event)

    def tell_all(self, event: ServerEvent) -> None:
        """Tells everybody."""
        self.tell_owner(event)
        self.tell_viewers(event)

    def dismiss_viewers(self, done: SessionDone, code: int) -> None:
        """Tells all viewers that it is over, without what is the owner's alone, and closes their connections."""
        for seat in self.viewers:
            seat.tell(SessionDone(reason=done.reason, frames=done.frames))
            seat.outbox.close(code, done.reason)

    def dismiss_owner(self, done: SessionDone, code: int) -> None:
        """Tells the owner that it is over, if it is there to hear it, and closes its connection."""
        if self.owner is not None:
            self.owner.tell(done)
            self.owner.outbox.close(code, done.reason)
