"""How many replicas there should be, by how long the queue would take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ultraflash.server.replicas.replica import Replica, Seen
from ultraflash.server.settings import ReplicaSettings

# A queue must be too long for so long: a stream that is about to end must not cost a replica.
HOLD_S = 3.0


def queue_eta_s(seen: Sequence[Seen]) -> float:
    """Seconds that a new stream, or the video that would come next, waits; infinite where nobody can say."""
    states = [one.state for one in seen if one.state is not None and one.state.ready]
    if not states:
        return 0.0
    known = [state.eta_s for state in states if state.eta_s is not None]
    stream_s = min(known, default=float("inf"))
    queued = max(state.queued for state in states)
    speeds = [state.jobs_eta_s for state in states if state.jobs_eta_s is not None]
    # Before any speed is known a queue of videos is no reason: the first of them measures it.
    jobs_s = min(speeds) / len(states) if speeds and queued > len(states) else 0.0
    return max(stream_s, jobs_s)


class Autoscaler:
    """One replica more or less at a time."""

    def __init__(self, settings: ReplicaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._over_since: float | None = None
        # By the life of a replica and what it had begun: one that has begun more since was needed in between.
        self._idle_since: dict[tuple[Replica, int], float] = {}

    def wants_more(self, seen: Sequence[Seen]) -> bool:
        """Whether one more is to be started: the queue is long, all that run are ready, and there may be more."""
        if queue_eta_s(seen) <= self._settings.scale_up_eta_s:
            self._over_since = None
            return False
        if self._over_since is None:
            self._over_since = self._clock()
        if self._clock() - self._over_since < HOLD_S or not all(one.ready for one in seen):
            return False
        self._over_since = None
        return len(seen) < self._settings.most

    def to_be_stopped(self, seen: Sequence[Seen]) -> int | None:
        """The number of a replica that nobody has needed for long, the highest one first."""
        now = self._clock()
        idle = {
            (one.replica, one.state.begun)
            for one in seen
            if one.state is not None and one.state.ready and one.state.idle and not one.state.queued
        }
        self._idle_since = {spell: self._idle_since.get(spell, now) for spell in idle}
        if len(seen) <= self._settings.least:
            return None
        long = [
            replica.number
            for (replica, _), since in self._idle_since.items()
            if now - since >= self._settings.scale_down_idle_s
        ]
        return max(long, default=None)
