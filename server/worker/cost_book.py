"""What a frame of each size costs: seconds of the worker's loop, by measurement.

A size is measured when the engine warms up and whenever a stream runs at it. One at which nothing runs at the moment
follows the speed of the machine as the sizes in use show it: what slows one down slows all down.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping

# The median over so many groups: one slow group means nothing.
GROUPS_KEPT = 5
# Where a size is met for the first time, what was predicted counts as so many groups.
PREDICTIONS_KEPT = 3


class CostBook:
    """Expected seconds per frame of every size.

    Args:
        pixels: of a picture, by name of the size.
    """

    def __init__(self, pixels: Mapping[str, int]) -> None:
        self._pixels = dict(pixels)
        self._seconds: dict[str, float] = {}
        self._newest: dict[str, deque[float]] = {}
        self._groups_since: dict[str, int] = {}

    def begin(self, size: str, seconds: float) -> None:
        """Notes what a frame cost while the engine warmed up."""
        self._seconds[size] = seconds
        self._newest[size] = deque([seconds] * PREDICTIONS_KEPT, maxlen=GROUPS_KEPT)
        self._groups_since[size] = 0

    def measured(self, size: str, seconds: float) -> None:
        """A group of a stream has cost so many seconds per frame."""
        if size not in self._newest:
            self.begin(size, self.seconds(size) or seconds)
        self._groups_since[size] = 0
        self._newest[size].append(seconds)
        before, after = self._seconds[size], statistics.median(self._newest[size])
        self._seconds[size] = after
        for other in self._seconds.keys() - {size}:
            # The first groups after a change of size correct what was predicted for it, and say nothing of others.
            if self._groups_since[other] >= GROUPS_KEPT and before > 0:
                self._scale(other, after / before)
            self._groups_since[other] += 1

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

    def _scale(self, size: str, factor: float) -> None:
        self._seconds[size] *= factor
        scaled = [seconds * factor for seconds in self._newest[size]]
        self._newest[size] = deque(scaled, maxlen=GROUPS_KEPT)
