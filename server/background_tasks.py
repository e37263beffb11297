"""What the web process does again and again beside its requests. A round that fails is logged, counted, and seen in
``/readyz`` where the server is of no use without it; the next one comes all the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ultraflash.server.metrics import Metrics

log = logging.getLogger(__name__)

# A round that takes longer hangs; SQLite waits for other writers up to half of that.
LONGEST_ROUND_S = 60.0


class BackgroundTasks:
    """Those of one server."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._failing: set[str] = set()
        self._began_at: dict[str, float] = {}
        self._vital: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        """Why the server should get no new clients: what fails or hangs, and is vital."""
        late = self._clock() - LONGEST_ROUND_S
        for name, said in self._vital.items():
            if name in self._failing or self._began_at.get(name, self._clock()) < late:
                return said
        return None

    async def repeat(
        self, name: str, work: Callable[[], Awaitable[None]], *, every_s: float, trouble: str | None = None
    ) -> None:
        """Works until cancelled.

        Args:
            name: of the task, in logs and metrics.
            work: one round.
            every_s: between two rounds.
            trouble: what ``/readyz`` says while it fails, for a task that the server is of no use without.
        """
        if trouble is not None:
            self._vital[name] = trouble
        while True:
            await self._round(name, work)
            await asyncio.sleep(every_s)

    async def _round(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._began_at[name] = self._clock()
        try:
            await work()
        except Exception as error:
            # The first time with a traceback, which would say the same every few seconds while a database is away.
            known = name in self._failing
            log.error(
                "the background task %r failed, and is tried again: %s", name, error, exc_info=not known
            )
            self._failing.add(name)
            self._metrics.background_failures.labels(task=name).inc()
        else:
            if name in self._failing:
                log.info("the background task %r succeeds again", name)
            self._failing.discard(name)
        finally:
            del self._began_at[name]
