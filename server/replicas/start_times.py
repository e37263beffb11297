"""How long replicas take until they are ready, measured, so that who is turned away hears when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ultraflash.server.replicas.replica import Replica, Seen


class StartTimes:
    """Follows lives of replicas from when they are first seen, or when their worker has gone, until they are ready.

    One that was ready and does not answer for a moment is busy, and does not start.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.usual_s: float | None = None
        self._clock = clock
        self._began: dict[Replica, float] = {}
        self._started: set[Replica] = set()

    def note(self, seen: Sequence[Seen]) -> None:
        """What there is at this moment; the newest start that was seen whole is taken as the usual one."""
        now = self._clock()
        ready = {one.replica for one in seen if one.ready}
        for replica in ready & self._began.keys():
            self.usual_s = now - self._began[replica]
        silent = {one.replica for one in seen if one.state is None}
        self._started = ready | (silent & self._started)
        starting = [one.replica for one in seen if one.replica not in self._started]
        self._began = {replica: self._began.get(replica, now) for replica in starting}

    def left_s(self) -> float | None:
        """Seconds until the first of those that start is ready; None where none starts or none was measured."""
        if self.usual_s is None or not self._began:
            return None
        return max(0.0, min(self._began.values()) + self.usual_s - self._clock())
