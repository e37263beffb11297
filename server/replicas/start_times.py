"""How long replicas take until they are ready, measured, so that who is turned away hears when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from ultraflash.server.replicas.replica import Replica


class StartTimes:
    """Follows lives of replicas from when they are first seen, or when their worker has gone, until they are ready."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.usual_s: float | None = None
        self._clock = clock
        self._began: dict[Replica, float] = {}

    def note(self, starting: Collection[Replica], ready: Collection[Replica]) -> None:
        """What there is at this moment; the newest start that was seen whole is taken as the usual one."""
        now = self._clock()
        for replica in ready:
            if replica in self._began:
                self.usual_s = now - self._began[replica]
        self._began = {replica: self._began.get(replica, now) for replica in starting}

    def left_s(self) -> float | None:
        """Seconds until the first of those that start is ready; None where none starts or none was measured."""
        if self.usual_s is None or not self._began:
            return None
        return max(0.0, min(self._began.values()) + self.usual_s - self._clock())
