"""Takes jobs from the store to the worker one after the other, and what becomes of them back into the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ultraflash.server.errors import VideoGone
from ultraflash.server.jobs.artifacts import ArtifactStore, sha256_of
from ultraflash.server.jobs.prompt_checks import PromptChecks
from ultraflash.server.jobs.records import Job
from ultraflash.server.jobs.references import References
from ultraflash.server.jobs.speed import JobSpeed
from ultraflash.server.jobs.store import JobStore
from ultraflash.server.jobs.tails import Tails
from ultraflash.server.jobs.work_folders import WorkFolders
from ultraflash.server.logs import fields
from ultraflash.server.metrics import Metrics
from ultraflash.server.worker.messages import (
    CancelJob,
    JobFailed,
    JobFinished,
    JobProgress,
    JobReport,
    JobStopped,
    PromptChecked,
    ReferenceRead,
    RunJob,
)
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)

POLL_S = 1.0
TIDY_EVERY_S = 30.0
RESULT = "video.mp4"
REFERENCE = "reference.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker has ended; ``next_life`` counts the ones that come after it."""

    next_life: int


Tiding = JobProgress | JobFinished | JobFailed | JobStopped | WorkerLost | Literal["wake"]


class JobDispatcher:
    """One task that does all of it, so that nothing about a job happens twice at a time."""

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        supervisor: WorkerSupervisor,
        folders: WorkFolders,
        tails: Tails,
        references: References,
        metrics: Metrics,
        *,
        keep_s: float,
    ) -> None:
        self.speed = JobSpeed()
        # How many jobs this server has ever worked on.
        self.begun = 0
        self.prompts = PromptChecks(supervisor)
        self.references = references
        self._store = store
        self._artifacts = artifacts
        self._supervisor = supervisor
        self._folders = folders
        self._tails = tails
        self._metrics = metrics
        self._keep_s = keep_s
        self._tidings: asyncio.Queue[Tiding] = asyncio.Queue()
        self._running: Job | None = None
        self._life = self._sent_in_life = 0
        self._kept_at = 0.0
        self._recovered_at = self._tidied_at = float("-inf")
        self._change = asyncio.Event()

    @property
    def running_id(self) -> str | None:
        """The job that the worker has now."""
        return None if self._running is None else self._running.id

    def wake(self) -> None:
        """Something may be there to do."""
        self._tidings.put_nowait("wake")

    def stop(self, job_id: str, *, ended: bool) -> None:
        """Stops the work on a job that is not wanted any more, which has ``ended`` it; the store knows already."""
        if ended:
            self._metrics.jobs_ended.labels(status="cancelled").inc()
        if self._running is not None and self._running.id == job_id:
            self._supervisor.send(CancelJob(job_id=job_id))
        self._tell_watchers()

    def remove_files(self, job_id: str) -> None:
        """Removes a finished video and what its extensions would go on from. Blocking."""
        self._artifacts.remove(job_id)
        self._tails.remove(job_id)

    async def changed(self, seconds: float) -> None:
        """Waits until some job has changed, but not for ever: another server may have changed one."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._change.wait(), seconds)

    def on_report(self, report: JobReport) -> None:
        """From the supervisor."""
        if isinstance(report, PromptChecked):
            self.prompts.on_checked(report)
        elif isinstance(report, ReferenceRead):
            self.references.on_read(report)
        else:
            self._tidings.put_nowait(report)

    def on_worker_lost(self) -> None:
        """From the supervisor."""
        self._life += 1
        self._tidings.put_nowait(WorkerLost(next_life=self._life))
        self.prompts.on_worker_lost()
        self.references.on_worker_lost()

    def on_worker_ready(self) -> None:
        """From the supervisor."""
        self.wake()

    async def run(self) -> None:
        """Works until cancelled."""
        self._supervisor.attach_jobs(self)
        self.wake()
        while True:
            await self._try_step()

    async def _try_step(self) -> None:
        try:
            await self._step()
        except Exception:
            # Most likely the database is away; jobs are safe in it and wait.
            log.exception("a job could not be followed; trying again")
            self._metrics.background_failures.labels(task="jobs").inc()
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """After the worker has ended: the job in work goes back into the queue; what is there of it stays."""
        self._running = None
        await asyncio.to_thread(self._store.recover, None)

    async def _step(self) -> None:
        await self._handle(await self._next_tiding())
        await self._keep_claim()
        await self._take_over()
        await self._tidy()
        if self._running is None and self._supervisor.is_ready:
            await self._start_next()

    async def _next_tiding(self) -> Tiding:
        try:
            return await asyncio.wait_for(self._tidings.get(), POLL_S)
        except asyncio.TimeoutError:
            return "wake"

    async def _handle(self, tiding: Tiding) -> None:
        job = self._running
        if job is None or tiding == "wake":
            return
        if isinstance(tiding, WorkerLost):
            if self._sent_in_life < tiding.next_life:
                await self._release(self._give_back, job.id, goes_on=True)
        elif tiding.job_id != job.id:
            return
        elif isinstance(tiding, JobProgress):
            self._running = replace(job, frames_done=tiding.frames)
            self.speed.progressed(job.order, tiding.frames - job.frames_done)
            self._metrics.job_frames.inc(tiding.frames - job.frames_done)
            await self._keep(self._running)
        elif isinstance(tiding, JobFinished):
            await self._release(self._store_file, job, Path(tiding.path))
        elif isinstance(tiding, JobFailed):
            await self._release(self._fail, job.id, tiding.code, tiding.message)
        else:
            await self._release(lambda: None)

    async def _release(self, last: Callable[..., object], *args: object, goes_on: bool = False) -> None:
        """The worker is done with the job; ``last`` is what is left to do for it.

        What there is of the video is removed unless the next attempt may use it. If ``last`` fails the job stays
        claimed without being run, which the next tidying finds.
        """
        job, self._running = self._running, None
        try:
            await asyncio.to_thread(last, *args)
        finally:
            if job is not None and not goes_on:
                await asyncio.to_thread(self._folders.remove, job.id)
            self._tell_watchers()

    def _store_file(self, job: Job, path: Path) -> None:
        quota_bytes = self._store.limits.quota_bytes
        kept_bytes = path.stat().st_size + (0 if job.order.reference is None else job.order.reference.bytes)
        if kept_bytes > quota_bytes:
            self._fail(
                job.id, "video_too_large", f"The video has {kept_bytes} bytes, more than all videos may have."
            )
            return
        tail_bytes = self._tails.coming_bytes(path.parent)
        # Without its tail an extension makes all frames anew, which is better than no video.
        with_tail = kept_bytes + tail_bytes <= quota_bytes
        kept_bytes += tail_bytes if with_tail else 0
        self._make_room(kept_bytes)
        with path.open("rb") as file:
            digest = sha256_of(file)
        try:
            self._artifacts.put(path, job.id)
        except Exception:
            # Making it once more would not help, and cost as much again.
            log.exception("a finished video could not be stored", extra=fields(job=job.id))
            message = "The finished video could not be stored; the server's log says why."
            self._fail(job.id, "storage_failed", message)
            return
        if with_tail:
            self._tails.keep(path.parent, job.id)
        if not self._store.complete(job.id, kept_bytes, digest):
            self.remove_files(job.id)
            return
        self._metrics.jobs_ended.labels(status="completed").inc()

    def _give_back(self, job_id: str) -> None:
        if self._store.give_back(job_id):
            self._metrics.jobs_ended.labels(status="failed").inc()

    def _fail(self, job_id: str, code: str, message: str) -> None:
        # Where the claim is lost the job is another server's, or over already, and was counted there.
        if self._store.fail(job_id, code, message):
            self._metrics.jobs_ended.labels(status="failed").inc()

    def _make_room(self, coming_bytes: int) -> None:
        for job_id in self._store.beyond_quota(coming_bytes):
            self._remove_video(job_id, "made room")

    async def _keep_claim(self) -> None:
        due = time.monotonic() - self._kept_at > self._store.limits.lease_s / 3
        if self._running is not None and due:
            await self._keep(self._running)

    async def _keep(self, job: Job) -> None:
        self._kept_at = time.monotonic()
        if not await asyncio.to_thread(self._store.keep, job.id, job.frames_done):
            self._supervisor.send(CancelJob(job_id=job.id))
        self._tell_watchers()

    async def _start_next(self) -> None:
        ready = self._supervisor.ready
        if ready is None:
            return
        job = await asyncio.to_thread(self._store.claim, ready.model)
        if job is None:
            return
        folder, before = await asyncio.to_thread(self._folders.prepare, job.id, job.lineage.extended_from)
        try:
            reference = await asyncio.to_thread(self._fetch_reference, job, folder)
        except VideoGone as error:
            await asyncio.to_thread(self._fail, job.id, error.code, error.message)
            await asyncio.to_thread(self._folders.remove, job.id)
            self.wake()
            return
        if not self._supervisor.is_ready:
            await asyncio.to_thread(self._store.recover, None)
            return
        self.begun += 1
        self._running, self._sent_in_life, self._kept_at = job, self._life, time.monotonic()
        self.speed.started()
        order = job.order
        self._supervisor.send(
            RunJob(
                job_id=job.id,
                cues=[
                    [cue.frame, cue.prompt, cue.transition, cue.groups, cue.restarts] for cue in order.cues
                ],
                size=f"{order.width}x{order.height}",
                seed=order.seed,
                fps=order.fps,
                frames=order.frames,
                path=str(folder / RESULT),
                reference=reference,
                resume_from=None if before is None else str(before),
            )
        )
        self._tell_watchers()

    def _fetch_reference(self, job: Job, folder: Path) -> str | None:
        """The frames that a job starts from, as a file beside its own. Raises ``VideoGone``."""
        if job.order.reference is None:
            return None
        path = folder / REFERENCE
        self._artifacts.fetch_reference(job.order.reference.id, path)
        return str(path)

    async def _take_over(self) -> None:
        if time.monotonic() - self._recovered_at < min(TIDY_EVERY_S, self._store.limits.lease_s / 3):
            return
        self._recovered_at = time.monotonic()
        running = None if self._running is None else self._running.id
        lost = await asyncio.to_thread(self._store.recover, running)
        if lost:
            log.warning("taken over from servers that are gone: %s", ", ".join(lost))

    async def _tidy(self) -> None:
        if time.monotonic() - self._tidied_at < TIDY_EVERY_S:
            return
        self._tidied_at = time.monotonic()
        await asyncio.to_thread(self._remove_old)

    def _remove_old(self) -> None:
        for job_id in self._store.expired():
            self._remove_video(job_id, "expired")
        self.references.tidy()
        self._store.forget_older(self._keep_s)
        self._folders.tidy(self._store.is_waiting)

    def _remove_video(self, job_id: str, reason: Literal["expired", "made room"]) -> None:
        self.remove_files(job_id)
        self.references.release(self._store.file_removed(job_id, reason))

    def _tell_watchers(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
