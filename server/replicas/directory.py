"""Which replicas there are, what each is doing, and which of them a request is for."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence

import httpx
from pydantic import ValidationError

from ultraflash.server.replicas.replica import Replica, Seen
from ultraflash.server.replicas.start_times import StartTimes
from ultraflash.server.replicas.state import SECRET_HEADER, STATE_PATH, TAKE_OVER_PATH, ReplicaState

log = logging.getLogger(__name__)

# A replica answers from memory.
ANSWER_WITHIN_S = 1.0
# It reads sessions from the database, and their states and pictures from files that may be far away.
TAKE_OVER_WITHIN_S = 30.0
ASK_AGAIN_S = 0.25
# A session that was sent to a replica is seen there by then.
UNSEEN_S = 1.0
# However long it may take, nobody is sent away for longer.
LONGEST_RETRY_S = 300


class Directory:
    """Asks rather than remembers: who owns a session is what the replicas themselves say, at that moment.

    Args:
        replicas: those that run now.
        secret: that opens their doors.
        complete: whether all replicas that there should be run, so that what none of them knows does not exist.
        next_try_s: until another replica is started, where one is going to be.
        retry_after_s: what a client that is turned away is told at least.
        http: shared connections.
    """

    def __init__(
        self,
        replicas: Callable[[], Sequence[Replica]],
        *,
        secret: str,
        complete: Callable[[], bool],
        next_try_s: Callable[[], float | None],
        retry_after_s: int,
        http: httpx.AsyncClient,
    ) -> None:
        self.http = http
        self.newest: Sequence[Seen] = ()
        self._replicas = replicas
        self._complete = complete
        self._next_try_s = next_try_s
        self._retry_after_s = retry_after_s
        self._starts = StartTimes()
        self._headers = {SECRET_HEADER: secret}
        self._turn = itertools.count()
        self._begun: list[tuple[Replica, float]] = []
        self._takings_over = 0

    async def look(self) -> Sequence[Seen]:
        """All replicas as they are now, by number."""
        replicas = list(self._replicas())
        states = await asyncio.gather(*(self._ask(replica) for replica in replicas))
        self.newest = [
            Seen(replica=replica, state=state) for replica, state in zip(replicas, states, strict=True)
        ]
        self._starts.note(self.newest)
        return self.newest

    def retry_after_s(self) -> int:
        """When a client that finds no replica may try again: by queues, by starts so far, by the next start."""
        waits = [seen.state.eta_s for seen in self._known() if seen.state is not None and seen.ready]
        next_try_s = self._next_try_s()
        waits.append(self._starts.left_s())
        waits.append(None if next_try_s is None else next_try_s + (self._starts.usual_s or 0.0))
        soonest = min((wait_s for wait_s in waits if wait_s is not None), default=0.0)
        return min(LONGEST_RETRY_S, max(self._retry_after_s, math.ceil(soonest)))

    async def for_new_session(self, *, begins: bool = False) -> Replica | None:
        """Where a stream would begin soonest; among equals, where there is most room. None where no replica runs.

        One that ``begins`` counts at once, though the replica does not know of it yet: several may come together.
        """
        seen = await self.look()
        recently = time.monotonic() - UNSEEN_S
        self._begun = [(replica, at) for replica, at in self._begun if at > recently]
        best = min(seen, key=self._burden, default=None)
        if best is not None and begins:
            self._begun.append((best.replica, time.monotonic()))
        return None if best is None else best.replica

    async def free_place(self, *, other_than: Replica) -> Replica | None:
        """Another replica where a stream would begin at once, if there is one; the place counts as taken."""
        best = await self.for_new_session()
        state = next((seen.state for seen in self.newest if seen.replica == best), None)
        taken = any(replica == best for replica, _ in self._begun)
        if (
            best is None
            or best == other_than
            or taken
            or state is None
            or not state.ready
            or state.eta_s != 0
        ):
            return None
        self._begun.append((best, time.monotonic()))
        return best

    async def owner_of(self, session_id: str, *, patience_s: float = 0.0) -> Replica | None:
        """The replica that runs a session.

        It is waited for while a replica is missing, whose it may have been, or while its sessions are taken over.
        """
        deadline = time.monotonic() + patience_s
        while True:
            for seen in await self.look():
                if seen.state is not None and session_id in seen.state.sessions:
                    return seen.replica
            # One that is not ready knows its sessions all the same.
            complete = self._complete() and not self._takings_over
            if complete and all(seen.state is not None for seen in self.newest):
                return None
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(ASK_AGAIN_S)

    async def worker_on(self, job_id: str) -> Replica | None:
        """The replica that makes a video just now."""
        for seen in await self.look():
            if seen.state is not None and seen.state.job == job_id:
                return seen.replica
        return None

    async def any_one(self) -> Replica | None:
        """The next replica that is ready, in turn, or at worst one that is not."""
        ready = await self._best_known()
        return ready[next(self._turn) % len(ready)] if ready else None

    async def first(self) -> Replica | None:
        """The lowest replica that answers, ready or not: the one that remembers what only one can.

        Its worker may come and go without another one being asked for what it has in its memory.
        """
        known = self._known()
        if not any(seen.state is not None for seen in known):
            known = list(await self.look())
        answering = [seen.replica for seen in known if seen.state is not None]
        return next(iter(answering or self._replicas()), None)

    async def take_over(self) -> None:
        """Lets a replica that has room go on with the sessions of one that is gone."""
        self._takings_over += 1
        try:
            await self._take_over()
        finally:
            self._takings_over -= 1

    async def _take_over(self) -> None:
        replica = await self.for_new_session()
        if replica is None or all(seen.state is None for seen in self.newest):
            return
        try:
            url = f"http://{replica.address}{TAKE_OVER_PATH}"
            answer = await self.http.post(url, headers=self._headers, timeout=TAKE_OVER_WITHIN_S)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            # The next life of the lost replica looks for them too.
            log.warning("replica %d did not take the sessions of a lost one over: %s", replica.number, error)

    async def _best_known(self) -> list[Replica]:
        known = self._known()
        if not any(seen.ready for seen in known):
            known = list(await self.look())
        return [seen.replica for seen in known if seen.ready] or list(self._replicas())

    def _known(self) -> list[Seen]:
        """What those said that run now, when they were last looked at."""
        running = list(self._replicas())
        return [seen for seen in self.newest if seen.replica in running]

    async def _ask(self, replica: Replica) -> ReplicaState | None:
        try:
            url = f"http://{replica.address}{STATE_PATH}"
            answer = await self.http.get(url, headers=self._headers, timeout=ANSWER_WITHIN_S)
            answer.raise_for_status()
            return ReplicaState.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            log.debug("replica %d does not answer: %s", replica.number, error)
            return None

    def _burden(self, seen: Seen) -> tuple[bool, float, int, float, int, int]:
        """What speaks against starting a stream there, the heaviest first."""
        state, number = seen.state, seen.replica.number
        if state is None:
            return True, math.inf, 0, 0.0, 0, number
        eta_s = math.inf if state.eta_s is None else state.eta_s
        begun = sum(replica == seen.replica for replica, _ in self._begun)
        return not state.ready, eta_s, begun, state.share, len(state.sessions) + state.waiting, number
