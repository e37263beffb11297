"""When the frames of a stream are seen: a player's clock, and the numbers that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTILES = (50, 95, 99)


@dataclass(slots=True, kw_only=True)
class Player:
    """Plays in real time and stands still when a frame is late. Times are seconds of any one clock.

    Attributes:
        lead_s: media that it gathers before it begins.
        begun_at: when the frame at 0 is, or would have been, due; None before the first frame.
        misses: frames that came after they were due.
        stalled_s: how long it stood still in all.
        frames: received so far.
    """

    lead_s: float
    begun_at: float | None = None
    misses: int = 0
    stalled_s: float = 0.0
    frames: int = 0
    shown: list[tuple[float, int, float]] = field(default_factory=list)

    def take(self, seq: int, pts_s: float, now: float) -> float:
        """A frame has come; returns when it is seen."""
        if self.begun_at is None:
            self.begun_at = now + self.lead_s - pts_s
        self.frames += 1
        late_s = now - (self.begun_at + pts_s)
        if late_s > 0:
            self.misses += 1
            self.stalled_s += late_s
            self.begun_at += late_s
        seen_at = self.begun_at + pts_s
        self.shown.append((seen_at, seq, pts_s))
        return seen_at

    def newest_shown(self, now: float) -> tuple[int, float] | None:
        """Number and time of the newest frame that has been seen since the last call; None where there is none."""
        due = [entry for entry in self.shown if entry[0] <= now]
        self.shown = [entry for entry in self.shown if entry[0] > now]
        return (due[-1][1], due[-1][2]) if due else None

    def buffered_s(self, now: float) -> float:
        """Media that waits to be seen."""
        return max(0.0, self.shown[-1][0] - now) if self.shown else 0.0


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Number, percentiles and maximum, in the unit of the values; only the number where there are none."""
    if not values:
        return {"n": 0}
    points = np.percentile(np.asarray(values), PERCENTILES)
    named = {f"p{point}": round(float(value), 3) for point, value in zip(PERCENTILES, points, strict=True)}
    return {"n": len(values), **named, "max": round(max(values), 3)}


def slope(samples: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of (time, value) samples; None for fewer than three."""
    if len(samples) < 3:
        return None
    times, values = np.asarray(samples, dtype=float).T
    return float(np.polyfit(times - times[0], values, 1)[0])
