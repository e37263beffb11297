"""How much of its bitrate a stream may use, by how long its owner's frames stay on their way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

LOWER_ABOVE_S = 0.25
HOLD_ABOVE_S = 0.6
RAISE_BELOW_S = 0.13
LOWER_BY = 0.7
RAISE_BY = 1.08
LOWER_EVERY_S = 0.5
RAISE_EVERY_S = 2.0
SMALLEST_SHARE = 0.15
# Frames that come closer together than this belong to one group, which is sent faster than it plays.
BURST_GAP_S = 0.1
ROUNDING_US = 1000.0


class Step(Enum):
    """What to do now."""

    KEEP = auto()
    CHANGE_SHARE = auto()
    HOLD = auto()
    RELEASE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A frame on its way: its time in the stream, and when it would have left if groups were sent as they play."""

    pts_us: float
    left_at: float


class BitrateControl:
    """Lowers the share of the bitrate while frames stay on their way for long, and raises it slowly again.

    The time that the fastest frame so far took is taken off, since distance is no congestion.

    Attributes:
        share: of the bitrate that the owner has allowed, up to 1.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = 1.0
        self._clock = clock
        self._on_way: deque[_Sent] = deque()
        self._newest_left_at = 0.0
        self._newest_sent_at = 0.0
        self._shortest_s: float | None = None
        self._holding = False
        self._lower_at = 0.0
        self._raise_at = clock() + RAISE_EVERY_S

    @property
    def late_s(self) -> float:
        """How long the oldest frame on its way has been, beyond what distance explains; 0 before the first answer."""
        if not self._on_way or self._shortest_s is None:
            return 0.0
        return max(0.0, self._clock() - self._on_way[0].left_at - self._shortest_s)

    def sent(self, pts_us: float, frame_us: float) -> None:
        """A frame has been queued for the owner."""
        now = self._clock()
        in_burst = now - self._newest_sent_at < BURST_GAP_S
        self._newest_left_at = max(now, self._newest_left_at + frame_us / 1e6) if in_burst else now
        self._newest_sent_at = now
        self._on_way.append(_Sent(pts_us=pts_us, left_at=self._newest_left_at))

    def never_sent(self, frames: int) -> None:
        """The newest frames were dropped before they left."""
        for _ in range(min(frames, len(self._on_way))):
            self._on_way.pop()

    def received(self, shown_us: float, buffered_us: float) -> None:
        """The owner shows a frame, and has everything for a time after it."""
        now = self._clock()
        newest: _Sent | None = None
        while self._on_way and (
            self._on_way[0].pts_us <= shown_us
            or self._on_way[0].pts_us < shown_us + buffered_us - ROUNDING_US
        ):
            newest = self._on_way.popleft()
        if newest is not None:
            took_s = max(0.0, now - newest.left_at)
            self._shortest_s = took_s if self._shortest_s is None else min(self._shortest_s, took_s)

    def rest(self) -> None:
        """The owner has paused: it says nothing for a while, and that means nothing."""
        self._on_way.clear()

    def step(self, *, queued: bool) -> Step:
        """What to do now; to be asked whenever something was sent or received.

        Args:
            queued: whether frames wait on this side, because the connection takes no more.
        """
        now, late_s = self._clock(), self.late_s
        if self._holding:
            if self._on_way:
                return Step.KEEP
            self._holding = False
            return Step.RELEASE
        if late_s > HOLD_ABOVE_S and queued:
            self._holding = True
            self._set_share(LOWER_BY, now)
            return Step.HOLD
        if late_s > LOWER_ABOVE_S and now >= self._lower_at and self.share > SMALLEST_SHARE:
            self._set_share(LOWER_BY, now)
            return Step.CHANGE_SHARE
        if late_s < RAISE_BELOW_S and now >= self._raise_at and self.share < 1:
            self._set_share(RAISE_BY, now)
            return Step.CHANGE_SHARE
        return Step.KEEP

    def give_up_holding(self) -> None:
        """Frames on their way are taken for lost, since nothing is heard of them."""
        self._on_way.clear()

    def _set_share(self, factor: float, now: float) -> None:
        self.share = min(1.0, max(SMALLEST_SHARE, self.share * factor))
        self._lower_at = now + LOWER_EVERY_S
        self._raise_at = now + RAISE_EVERY_S
