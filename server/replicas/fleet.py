"""Replicas as child processes: started, followed, replaced when they die, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ultraflash.server.child_process import child_command
from ultraflash.server.listen import listening_socket
from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.replica_settings import replica_settings
from ultraflash.server.serving import CANNOT_SERVE
from ultraflash.server.settings import Settings

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
# A life that lasts so long was no failure to start.
STEADY_S = 30.0
# So many short lives in a row, and a replica rests; a device may come back, or a full disk be emptied.
REST_AFTER = 5
FIRST_REST_S = 60.0
LONGEST_REST_S = 900.0
STOP_WAIT_S = 30.0
# Stands for the exit status of a process that never was.
NOT_STARTED = -1


@dataclass(slots=True, kw_only=True)
class Slot:
    """The place of a replica, over all its lives.

    Attributes:
        replica: the life that runs now.
        wanted: whether another life follows.
        next_try_at: when that one begins, by the clock of the event loop, while it is waited for.
        rests: whether it has failed so often that it is left alone for long.
    """

    number: int
    replica: Replica | None = None
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    wanted: bool = True
    next_try_at: float | None = None
    rests: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """All replicas of one front.

    Args:
        on_lost: called when a replica has died on its own.
        on_given_up: called when all replicas have failed so often that they rest.
        closing: whether the front is being stopped, so that a replica that ends is not replaced.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_lost: Callable[[], Awaitable[None]],
        on_given_up: Callable[[], None],
        closing: Callable[[], bool],
    ) -> None:
        self.restarts = 0
        self._settings = settings
        self._on_lost = on_lost
        self._on_given_up = on_given_up
        self._closing = closing
        self._slots: dict[int, Slot] = {}

    def running(self) -> Sequence[Replica]:
        """Those whose process runs and is to go on, by number."""
        slots = sorted(self._wanted(), key=lambda slot: slot.number)
        return [slot.replica for slot in slots if slot.replica is not None]

    @property
    def size(self) -> int:
        """How many are wanted, whether they run or not."""
        return len(self._wanted())

    @property
    def complete(self) -> bool:
        """Whether all that are wanted run, but for those that rest."""
        return not self.missing

    @property
    def missing(self) -> int:
        """How many are wanted and do not run, but for those that rest."""
        return sum(slot.replica is None and not slot.rests for slot in self._wanted())

    @property
    def resting(self) -> Mapping[int, float]:
        """Those that have failed too often in a row: by number, the seconds until they are tried again."""
        waits = {slot.number: self._wait_s(slot) for slot in self._wanted() if slot.rests}
        return {number: wait_s for number, wait_s in waits.items() if wait_s is not None}

    @property
    def next_try_s(self) -> float | None:
        """Seconds until the next life of any of them begins; None where none is waited for."""
        waits = (self._wait_s(slot) for slot in self._wanted())
        return min((wait_s for wait_s in waits if wait_s is not None), default=None)

    def _wait_s(self, slot: Slot) -> float | None:
        if slot.next_try_at is None:
            return None
        return max(0.0, slot.next_try_at - asyncio.get_running_loop().time())

    def _wanted(self) -> list[Slot]:
        return [slot for slot in self._slots.values() if slot.wanted]

    def add(self) -> int:
        """Starts one more; returns its number, the lowest that is free."""
        number = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        slot = self._slots[number] = Slot(number=number)
        slot.task = asyncio.create_task(self._keep_alive(slot))
        return number

    async def remove(self, number: int) -> None:
        """Stops one, and returns when it has ended; what it works on goes back into the queue."""
        slot = self._slots.get(number)
        if slot is None:
            return
        slot.wanted = False
        slot.stopping.set()
        if slot.process is not None:
            _signal(slot.process, slot.process.terminate)
        if slot.task is not None:
            await slot.task

    async def stop(self) -> None:
        """Stops all."""
        await asyncio.gather(*(self.remove(number) for number in list(self._slots)))

    async def _keep_alive(self, slot: Slot) -> None:
        failures = 0
        while slot.wanted and not self._closing():
            began = asyncio.get_running_loop().time()
            status = await self._live_once(slot)
            if not slot.wanted:
                break
            # Loading again and again until it says so can take far longer than a life that was a failure otherwise.
            steady_s = LONGEST_REST_S if status == CANNOT_SERVE else STEADY_S
            steady = asyncio.get_running_loop().time() - began > steady_s
            failures = 0 if steady else failures + 1
            if status == CANNOT_SERVE:
                # It has said itself that trying again at once is of no use.
                failures = max(failures, REST_AFTER)
            log.warning("replica %d has gone with status %d", slot.number, status)
            self.restarts += 1
            # Before others are told of the loss, so that nobody waits for one that is not coming soon.
            slot.rests = failures >= REST_AFTER
            await self._tell_loss()
            if self._closing():
                break
            if all(other.rests for other in self._wanted()):
                log.error("no replica can be had")
                self._on_given_up()
                break
            await self._wait_for_next_try(slot, failures)
        del self._slots[slot.number]

    async def _wait_for_next_try(self, slot: Slot, failures: int) -> None:
        """Returns when the next life is to begin, or when the slot is not wanted any more."""
        pause_s = pause_after(failures)
        if slot.rests:
            log.error("replica %d has failed too often; it is tried again in %.0f s", slot.number, pause_s)
        slot.next_try_at = asyncio.get_running_loop().time() + pause_s
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(slot.stopping.wait(), pause_s)
        slot.next_try_at, slot.rests = None, False

    async def _tell_loss(self) -> None:
        try:
            await self._on_lost()
        except Exception:
            # The next life is more important.
            log.exception("the loss of a replica could not be dealt with")

    async def _live_once(self, slot: Slot) -> int:
        """One life of a replica; returns its exit status."""
        try:
            process, address = await self._spawn(slot)
        except OSError as error:
            # Too many processes or files, or no memory for one more: tried again like a life that was short.
            log.error("replica %d cannot be started: %s", slot.number, error)
            return NOT_STARTED
        slot.process = process
        assert process.stdin is not None
        # The pipe stays open: a replica ends when it closes, even if the front was killed.
        process.stdin.write(replica_settings(self._settings, slot.number).model_dump_json().encode() + b"\n")
        slot.replica = Replica(number=slot.number, address=address)
        log.info("replica %d is process %d at %s", slot.number, process.pid, slot.replica.address)
        if not slot.wanted:
            _signal(process, process.terminate)
        try:
            return await self._ended(slot, process)
        finally:
            slot.replica = slot.process = None

    async def _spawn(self, slot: Slot) -> tuple[asyncio.subprocess.Process, str]:
        """A process, and the address that it is going to answer at. Raises ``OSError``."""
        with listening_socket("127.0.0.1", 0) as listener:
            host, port = listener.getsockname()[:2]
            process = await asyncio.create_subprocess_exec(
                *replica_command(listener.fileno()),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                env={**os.environ, **device_environment(slot.number)},
                # Ctrl-C is for the front, which ends its replicas when it has let go of their clients.
                start_new_session=True,
            )
        return process, f"{host}:{port}"

    async def _ended(self, slot: Slot, process: asyncio.subprocess.Process) -> int:
        ending = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(slot.stopping.wait())
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        try:
            return await asyncio.wait_for(asyncio.shield(ending), None if slot.wanted else STOP_WAIT_S)
        except asyncio.TimeoutError:
            log.warning("replica %d does not end; killing it", slot.number)
            _signal(process, process.kill)
            return await ending


def pause_after(failures: int) -> float:
    """Seconds before the next life, after so many in a row that were short."""
    if failures >= REST_AFTER:
        return float(min(FIRST_REST_S * 2 ** (failures - REST_AFTER), LONGEST_REST_S))
    return float(min(FIRST_BACKOFF_S * 2**failures, LONGEST_BACKOFF_S))


def replica_command(listener: int) -> list[str]:
    """What starts a replica on a listening socket of that number, which it inherits; its settings go to stdin."""
    return child_command("ultraflash.server.replicas.replica_process", str(listener))


def _signal(process: asyncio.subprocess.Process, send: Callable[[], None]) -> None:
    """Signals a process that may have ended on its own."""
    try:
        send()
    except ProcessLookupError:
        log.debug("process %d has ended already", process.pid)


def device_environment(number: int, devices: Path = Path("/dev")) -> dict[str, str]:
    """What gives a replica a GPU of its own, in turn where there are fewer; nothing where there is none.

    Not yet run on a machine with several GPUs.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        visible = [str(index) for index in range(sum(1 for _ in devices.glob("nvidia[0-9]*")))]
    else:
        visible = [name.strip() for name in named.split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": visible[number % len(visible)]} if visible else {}
