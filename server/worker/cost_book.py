"""What a frame of each size costs: seconds of the worker's loop, by measurement.

A size is measured when the engine warms up and whenever a stream runs at it. One at which nothing runs at the moment
follows the speed of the machine as the sizes in use show it: what slows one down slows all down. When a size comes
into use, its first groups cannot tell a wrong prediction from a machine that has just become faster; so what was not
measured for long is forgotten, and the size may be tried again.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping

# The median over so many groups: one slow group means nothing.
GROUPS_KEPT = 5
# Where a size is met for the first time, what was predicted counts as so many groups.
PREDICTIONS_KEPT = 3
# After so long without a measurement a size is thought to cost no more than its pixels say.
FORGOTTEN_AFTER_S = 300.0


class CostBook:
    """Expected seconds per frame of every size.

    Args:
        pixels: of a picture, by name of the size.
        clock: seconds.
    """

    def __init__(self, pixels: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._pixels = dict(pixels)
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._newest: dict[str, deque[float]] = {}
        self._groups_since: dict[str, int] = {}
        self._measured_at: dict[str, float] = {}

    def begin(self, size: str, seconds: float) -> None:
        """Notes what a frame cost while the engine warmed up.

        All sizes are measured then, one after the other: the first group of a stream that takes longer or shorter
        says something of each.
        """
        self._know(size, seconds)
        self._groups_since[size] = GROUPS_KEPT

    def measured(self, size: str, seconds: float) -> None:
        """A group of a stream has cost so many seconds per frame."""
        if size not in self._newest:
            self._know(size, self.seconds(size) or seconds)
        self._groups_since[size] = 0
        self._measured_at[size] = self._clock()
        self._newest[size].append(seconds)
        before, after = self._seconds[size], statistics.median(self._newest[size])
        self._seconds[size] = after
        for other in self._seconds.keys() - {size}:
            # The first groups after a change of size correct what was predicted for it, and say nothing of others.
            if self._groups_since[other] >= GROUPS_KEPT and before > 0:
                self._scale(other, after / before)
            self._groups_since[other] += 1
            by_pixels = after * self._pixels[other] / self._pixels[size]
            if (
                self._clock() - self._measured_at[other] > FORGOTTEN_AFTER_S
                and by_pixels < self._seconds[other]
            ):
                self._scale(other, by_pixels / self._seconds[other])

    def seconds(self, size: str) -> float:
        """Expected seconds per frame; 0 while nothing at all has been measured."""
        if size in self._seconds or not self._seconds:
            return self._seconds.get(size, 0.0)
        pixels = self._pixels[size]
        nearest = min(self._seconds, key=lambda name: abs(self._pixels[name] - pixels))
        return self._seconds[nearest] * pixels / self._pixels[nearest]

    def all_seconds(self) -> dict[str, float]:
        """Expected seconds per frame of every size."""
        return {size: self.seconds(size) for size in self._pixels}

    def _know(self, size: str, seconds: float) -> None:
        self._seconds[size] = seconds
        self._newest[size] = deque([seconds] * PREDICTIONS_KEPT, maxlen=GROUPS_KEPT)
        self._groups_since[size] = 0
        self._measured_at[size] = self._clock()

    def _scale(self, size: str, factor: float) -> None:
        self._seconds[size] *= factor
        scaled = [seconds * factor for seconds in self._newest[size]]
        self._newest[size] = deque(scaled, maxlen=GROUPS_KEPT)
