"""Which stream or job the engine works for next.

The unit is one group, and a group that has begun is never broken off. Live streams have the device first, the one
whose owner runs out of media soonest before the others. Jobs use the gaps: a group of a job starts only when it is
expected to end early enough for every stream. A job is never kept from its next group for longer than
``patience_s``, though, so that streams cannot starve it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Weight of the newest group in the expected cost of the next one.
NEWEST = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDemand:
    """What a live stream needs.

    Attributes:
        key: its id.
        ready: whether its next group may start now.
        deadline: when its owner runs out of media, in seconds of the scheduler's clock; one that is past and not
            ready waits for its owner and not for the device.
    """

    key: str
    ready: bool
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDemand:
    """A job; ``ready`` is whether its next group may start now."""

    key: str
    ready: bool


class Scheduler:
    """The policy, without any work of its own. Times are seconds of ``clock``."""

    def __init__(self, *, patience_s: float, clock: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._costs: dict[str, float] = {}
        self._job_waits_since: float | None = None

    def next(self, streams: Sequence[StreamDemand], jobs: Sequence[JobDemand]) -> str | None:
        """Key of what to work for, or None when it is best to wait. Jobs are given in their order of arrival."""
        now = self._clock()
        job = next((job for job in jobs if job.ready), None)
        if job is None:
            self._job_waits_since = None
        elif self._job_waits_since is None:
            self._job_waits_since = now
        elif now - self._job_waits_since >= self._patience_s:
            return job.key
        ready = [stream for stream in streams if stream.ready]
        if ready:
            return min(ready, key=lambda stream: stream.deadline).key
        if job is not None and self._fits(job, streams, now):
            return job.key
        return None

    def ran(self, key: str, seconds: float, *, job: bool) -> None:
        """A group has taken ``seconds``."""
        before = self._costs.get(key, seconds)
        self._costs[key] = before + NEWEST * (seconds - before)
        if job:
            self._job_waits_since = None

    def forget(self, key: str) -> None:
        """A stream or job is over."""
        self._costs.pop(key, None)

    def cost(self, key: str) -> float:
        """Expected seconds of the next group; of one never seen, those of the dearest that was."""
        return self._costs.get(key, max(self._costs.values(), default=0.0))

    def _fits(self, job: JobDemand, streams: Sequence[StreamDemand], now: float) -> bool:
        """Whether every stream can still have its group in time after one group of the job."""
        end = now + self.cost(job.key)
        for stream in sorted(streams, key=lambda stream: stream.deadline):
            if stream.deadline < now:
                continue
            end += self.cost(stream.key)
            if end > stream.deadline:
                return False
        return True
