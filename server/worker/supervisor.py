"""The web process's side of the worker: starts it, follows it, replaces it when it dies."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from ultraflash.server.child_process import child_command
from ultraflash.server.worker.channel import AsyncChannel, ChannelClosed
from ultraflash.server.worker.messages import (
    Command,
    Configure,
    CostsMeasured,
    GpuMemory,
    JobReport,
    Report,
    Shutdown,
    StreamReport,
    WorkerFailed,
    WorkerProgress,
    WorkerReady,
)

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
GIVE_UP_AFTER = 5
STOP_WAIT_S = 5.0

WorkerState = Literal["starting", "ready", "restarting", "failed", "stopped"]


class StreamOwner(Protocol):
    """A session that lives in the worker."""

    def on_report(self, report: StreamReport) -> None:
        """Something happened to the stream."""

    def on_fault(self) -> None:
        """The last report could not be dealt with; the stream is to be given up."""

    def on_worker_lost(self) -> None:
        """The worker died and the stream with it."""

    def on_worker_ready(self) -> None:
        """A new worker is there; the stream may be opened again."""


class JobOwner(Protocol):
    """What follows the jobs in the worker."""

    def on_report(self, report: JobReport) -> None:
        """Something happened to a job."""

    def on_worker_lost(self) -> None:
        """The worker died and its jobs with it."""

    def on_worker_ready(self) -> None:
        """A new worker is there."""


@dataclass(slots=True)
class WorkerStatus:
    """What ``/readyz`` says."""

    state: WorkerState = "starting"
    stage: str = "starting the worker"
    progress: float = 0.0
    restarts: int = 0
    code: str | None = None
    message: str | None = None


class WorkerSupervisor:
    """Keeps one worker process alive and routes its reports to the owners of its streams."""

    def __init__(self, config: Configure, *, on_failed: Callable[[], None] | None = None) -> None:
        self.status = WorkerStatus()
        self.ready: WorkerReady | None = None
        self.process_id: int | None = None
        self.frame_seconds: Mapping[str, float] = {}
        self.gpus: Mapping[str, list[int]] = {}
        self._config = config
        self._on_failed = on_failed
        self._owners: dict[str, StreamOwner] = {}
        self._jobs: JobOwner | None = None
        self._costs_changed: Callable[[], None] = _ignore
        self._channel: AsyncChannel | None = None
        self._stopping = False

    @property
    def is_ready(self) -> bool:
        """Whether streams can be opened."""
        return self.status.state == "ready"

    def attach(self, stream_id: str, owner: StreamOwner) -> None:
        """Reports of this stream go to ``owner`` from now on."""
        self._owners[stream_id] = owner

    def detach(self, stream_id: str) -> None:
        """Nobody wants reports of this stream any more."""
        self._owners.pop(stream_id, None)

    def attach_jobs(self, owner: JobOwner) -> None:
        """Reports of all jobs go to ``owner``."""
        self._jobs = owner

    def follow_costs(self, listener: Callable[[], None]) -> None:
        """``listener`` is called whenever ``frame_seconds``, what a frame of each size costs, is new: each second."""
        self._costs_changed = listener

    def send(self, command: Command) -> None:
        """Passes a command on; dropped while there is no worker, since owners start over with a new one."""
        if self._channel is not None and self.is_ready:
            self._channel.send(command)

    async def run(self) -> None:
        """Keeps a worker running until stopped, or until none can be had."""
        try:
            await self._keep_alive()
        except Exception:
            log.exception("the supervision of the worker failed")
            self._fail("supervisor_fault", "The supervision of the worker failed; the log says why.")
        if self.status.state == "failed" and self._on_failed is not None:
            self._on_failed()

    async def _keep_alive(self) -> None:
        failures = 0
        while not self._stopping:
            came_up = await self._live_once()
            if self.status.state == "failed" or self._stopping:
                break
            failures = 0 if came_up else failures + 1
            if failures >= GIVE_UP_AFTER:
                self._fail("worker_keeps_dying", f"The worker died {failures} times before it was ready.")
                break
            self.status.state = "restarting"
            self.status.stage, self.status.progress = "restarting the worker", 0.0
            self.status.restarts += 1
            await asyncio.sleep(min(FIRST_BACKOFF_S * 2**failures, LONGEST_BACKOFF_S))

    async def _live_once(self) -> bool:
        """One life of a worker. Returns whether it became ready."""
        (incoming, their_out), (outgoing, their_in) = socket.socketpair(), socket.socketpair()
        with their_in, their_out:
            process = await asyncio.create_subprocess_exec(
                *child_command(
                    "ultraflash.server.worker.process", str(their_in.fileno()), str(their_out.fileno())
                ),
                pass_fds=(their_in.fileno(), their_out.fileno()),
            )
        self.process_id = process.pid
        self._channel = channel = await AsyncChannel.over(incoming, outgoing)
        channel.send(self._config)
        try:
            while True:
                self._route(await channel.receive())
        except ChannelClosed:
            log.log(logging.INFO if self._stopping else logging.WARNING, "worker %d has gone", process.pid)
        except ValueError:
            log.exception("worker %d speaks nonsense; replacing it", process.pid)
        finally:
            came_up = self.is_ready
            self._channel = None
            if came_up:
                self.status.state = "restarting"
            await _reap(process, channel, gently=self._stopping)
            self.process_id, self.gpus = None, {}
        if came_up and not self._stopping:
            for owner in self._all_owners():
                owner.on_worker_lost()
        return came_up

    def _route(self, report: Report | Command) -> None:
        if isinstance(report, WorkerProgress):
            self.status.stage, self.status.progress = report.stage, report.progress
        elif isinstance(report, WorkerReady):
            self.ready = report
            self.frame_seconds = report.frame_seconds
            self.status.state, self.status.stage, self.status.progress = "ready", "ready", 1.0
            log.info("worker %s is ready with %s", self.process_id, report.model)
            for owner in self._all_owners():
                owner.on_worker_ready()
        elif isinstance(report, CostsMeasured):
            self.frame_seconds = report.frame_seconds
            self._costs_changed()
        elif isinstance(report, GpuMemory):
            self.gpus = report.gpus
        elif isinstance(report, WorkerFailed):
            self._fail(report.code, report.message)
        elif isinstance(report, get_args(StreamReport)):
            self._route_to_owner(report)
        elif isinstance(report, get_args(JobReport)):
            if self._jobs is not None:
                self._jobs.on_report(report)
        else:
            raise ValueError(f"A worker does not send {type(report).__name__}.")

    def _route_to_owner(self, report: StreamReport) -> None:
        owner = self._owners.get(report.stream_id)
        if owner is None:
            return
        try:
            owner.on_report(report)
        except Exception:
            # One session's fault is not the worker's, and not that of the others.
            log.exception("a session failed at a report session=%s", report.stream_id)
            owner.on_fault()

    def _all_owners(self) -> list[StreamOwner | JobOwner]:
        return [*self._owners.values(), *([] if self._jobs is None else [self._jobs])]

    def _fail(self, code: str, message: str) -> None:
        self.status.state = "failed"
        self.status.stage, self.status.code, self.status.message = "failed", code, message
        log.error("no worker: %s", message)

    def stop(self) -> None:
        """Asks the worker to end; ``run`` returns soon after."""
        self._stopping = True
        if self._channel is not None:
            self._channel.send(Shutdown())


def _ignore() -> None:
    """Nobody follows the costs yet."""


async def _reap(process: asyncio.subprocess.Process, channel: AsyncChannel, *, gently: bool) -> None:
    """Makes sure that a worker is gone before the next one starts."""
    channel.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_WAIT_S if gently else 1.0)
    except asyncio.TimeoutError:
        log.warning("worker %d does not end; killing it", process.pid)
    finally:
        if process.returncode is None:
            process.kill()
