"""How fast jobs are made, measured: what waiting times are told by."""

from __future__ import annotations

import time
from collections.abc import Callable

from ultraflash.server.jobs.records import Order

NEWEST = 0.2


class JobSpeed:
    """Pixels a second over the newest groups, waiting for live streams included."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._pixels_per_s: float | None = None

    def started(self) -> None:
        """A job begins."""
        self._since = self._clock()

    def progressed(self, order: Order, frames: int) -> None:
        """``frames`` more are there."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        if seconds <= 0 or frames <= 0:
            return
        speed = frames * order.width * order.height / seconds
        before = speed if self._pixels_per_s is None else self._pixels_per_s
        self._pixels_per_s = before + NEWEST * (speed - before)

    def seconds_for(self, pixels: float) -> float | None:
        """How long that much takes; None until something has been measured."""
        return None if self._pixels_per_s is None else pixels / self._pixels_per_s
