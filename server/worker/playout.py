"""Whether the groups of one stream come in time for an owner that plays without a stop."""

from __future__ import annotations

import math

# What a group may be late without anybody seeing it.
UNSEEN_S = 0.02


class Playout:
    """Counts groups that came after their playout deadline because of this side.

    The owner is taken to play in real time from the first group on. One that plays more slowly, pauses, or takes
    everything at once keeps the stream from being made or asks for more than real time: neither makes a group late.
    Times are seconds of any one clock.

    Args:
        ahead_s: media made at most beyond the playhead.

    Attributes:
        misses: groups that were late.
    """

    def __init__(self, ahead_s: float) -> None:
        self.misses = 0
        self._ahead_s = ahead_s
        self._due = -math.inf
        self._held_at = -math.inf

    @property
    def due(self) -> float:
        """When an owner that plays in real time runs out of media."""
        return self._due

    def held(self, now: float) -> None:
        """Nothing may be made at this moment, since the owner has enough or rests."""
        self._held_at = now

    def sent(self, seconds: float, now: float) -> None:
        """A group that plays for so long is there."""
        # Where the owner has held the stream up until its media ran out, the group gets the time that it plays.
        late_s = now - max(self._due, self._held_at + seconds)
        if self._due > -math.inf and late_s > UNSEEN_S:
            self.misses += 1
        self._due = min(max(self._due, now) + seconds, now + max(self._ahead_s, seconds))
