"""Which size a stream gets, so that all of them come in time.

Sizes step down as soon as what they cost is known not to fit, or when frames were late although it should have; they
step up only when the larger size has fitted, by its measured cost and with room to spare, for a while. A step up that
had to be taken back is tried again after twice the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

# Shares of the device's time that all streams together take.
FULL = 1.0
ROOM = 0.85
LATE_GROUPS = 3
LATE_WITHIN_S = 10.0
SETTLE_S = 3.0
# How many times as long as at first the policy waits at most between two tries.
MOST_PATIENCE = 32
PROVEN_AFTER_S = 60.0

Reason = Literal["overload", "recovered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLoad:
    """What a live stream takes of the device.

    Attributes:
        key: its id.
        loads: share of the device's time that it needs in real time, by size, from small to the largest it may have.
        place: of its size among them.
        adapts: whether its size may be changed.
        misses: groups that were late so far.
    """

    key: str
    loads: tuple[float, ...]
    place: int
    adapts: bool
    misses: int

    @property
    def load(self) -> float:
        """At the size that it has."""
        return self.loads[self.place]

    @property
    def can_shrink(self) -> bool:
        """Whether it may get a smaller size."""
        return self.adapts and self.place > 0

    @property
    def can_grow(self) -> bool:
        """Whether it may get a larger size."""
        return self.adapts and self.place + 1 < len(self.loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeStep:
    """A stream changes its size; ``place`` is that of the new one."""

    key: str
    place: int
    reason: Reason


@dataclass(slots=True)
class _Record:
    """What is known of one stream's sizes. Times are seconds of the policy's clock."""

    misses: int = 0
    raised_at: float | None = None
    patience: int = 1
    fits_since: float | None = None


def largest_that_fits(loads: Sequence[float], taken: float, room: float = ROOM) -> int:
    """Place of the largest size whose load fits beside what is taken; 0 where none does."""
    fitting = [place for place, load in enumerate(loads) if taken + load <= room]
    return max(fitting, default=0)


class QualityPolicy:
    """Decides for all live streams of one device; at most one step at a time.

    Args:
        raise_after_s: time for which a larger size must have fitted before a stream gets it.
        clock: seconds.
    """

    def __init__(self, *, raise_after_s: float, clock: Callable[[], float]) -> None:
        self._raise_after_s = raise_after_s
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._late_at: deque[float] = deque()
        self._lowered_at = float("-inf")
        self._calm_since = clock()

    def step(self, streams: Sequence[StreamLoad]) -> SizeStep | None:
        """What is to change now, if anything. Streams that rest are left out; to be asked often."""
        now = self._clock()
        for gone in self._records.keys() - {stream.key for stream in streams}:
            del self._records[gone]
        self._note_misses(streams, now)
        total = sum(stream.load for stream in streams)
        if total > FULL:
            return self._lower(streams, total, now)
        if len(self._late_at) >= LATE_GROUPS:
            return self._lower(streams, None, now) if now - self._lowered_at >= SETTLE_S else None
        return self._raise(streams, total, now)

    def _note_misses(self, streams: Sequence[StreamLoad], now: float) -> None:
        for stream in streams:
            record = self._records.setdefault(stream.key, _Record(misses=stream.misses))
            late = stream.misses - record.misses
            record.misses = stream.misses
            self._late_at.extend([now] * late)
            if late > 0:
                self._calm_since = now
        while self._late_at and now - self._late_at[0] > LATE_WITHIN_S:
            self._late_at.popleft()

    def _lower(self, streams: Sequence[StreamLoad], total: float | None, now: float) -> SizeStep | None:
        """The dearest stream steps down: where the ``total`` load is known to be too much to what fits, else by one."""
        able = [stream for stream in streams if stream.can_shrink]
        self._calm_since = now
        if not able:
            return None
        stream = max(able, key=lambda one: one.load)
        if total is None:
            place = stream.place - 1
        else:
            place = largest_that_fits(stream.loads[: stream.place], total - stream.load)
        record = self._records[stream.key]
        if record.raised_at is not None and now - record.raised_at < PROVEN_AFTER_S:
            record.patience = min(2 * record.patience, MOST_PATIENCE)
        record.raised_at = None
        self._lowered_at = now
        self._late_at.clear()
        return SizeStep(key=stream.key, place=place, reason="overload")

    def _raise(self, streams: Sequence[StreamLoad], total: float, now: float) -> SizeStep | None:
        """The cheapest stream steps up by one, where that has fitted for long enough."""
        ready = []
        for stream in streams:
            record = self._records[stream.key]
            if record.raised_at is not None and now - record.raised_at >= PROVEN_AFTER_S:
                record.raised_at, record.patience = None, 1
            if not stream.can_grow or total - stream.load + stream.loads[stream.place + 1] > ROOM:
                record.fits_since = None
                continue
            if record.fits_since is None:
                record.fits_since = now
            if now - max(record.fits_since, self._calm_since) >= self._raise_after_s * record.patience:
                ready.append(stream)
        if not ready:
            return None
        stream = min(ready, key=lambda one: one.load)
        self._records[stream.key].raised_at = self._calm_since = now
        return SizeStep(key=stream.key, place=stream.place + 1, reason="recovered")
