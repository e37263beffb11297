"""Everything about jobs that one server holds: store, files, dispatcher."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from ultraflash.server.errors import DataUnusable, NotReady, UnsupportedField
from ultraflash.server.jobs.artifacts import ArtifactStore, sha256_of
from ultraflash.server.jobs.dispatcher import JobDispatcher
from ultraflash.server.jobs.orders import extension_order, new_order, remix_order, replay_order
from ultraflash.server.jobs.records import Job, Lineage, Order
from ultraflash.server.jobs.references import References
from ultraflash.server.jobs.store import Idempotency, JobStore
from ultraflash.server.jobs.tails import Tails
from ultraflash.server.jobs.wire import CreateVideo, ExtendVideo, ReplaySession, Video, video_of
from ultraflash.server.jobs.work_folders import WorkFolders
from ultraflash.server.keys.allowance import check_prompt_length
from ultraflash.server.keys.records import Caller
from ultraflash.server.logs import fields
from ultraflash.server.metrics import Metrics
from ultraflash.server.session_logs import SessionLogs
from ultraflash.server.settings import Settings
from ultraflash.server.worker.messages import WorkerReady
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 300


class JobService:
    """Jobs as the routes see them; ``running`` makes it work."""

    def __init__(
        self,
        settings: Settings,
        supervisor: WorkerSupervisor,
        metrics: Metrics,
        *,
        me: str,
        store: JobStore,
        artifacts: ArtifactStore,
        references: References,
        sessions: SessionLogs,
    ) -> None:
        """``me`` is the name of this life of this server. Raises ``DataUnusable``."""
        self.settings = settings.jobs
        self.store = store
        self.artifacts = artifacts
        self.references = references
        self._sessions = sessions
        self._supervisor = supervisor
        data = settings.data
        try:
            data.work_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataUnusable(f"The data folder cannot be used: {error}.", param="data.folder") from error
        tails = Tails(data.tails_folder)
        self.dispatcher = JobDispatcher(
            store,
            artifacts,
            supervisor,
            WorkFolders(data.work_folder, me, tails),
            tails,
            references,
            metrics,
            keep_s=settings.jobs.keep_s,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Jobs are made inside of it; the worker is to start later and to end before."""
        work = asyncio.create_task(self.dispatcher.run())
        try:
            yield
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            await self.dispatcher.close()

    async def create(self, wish: CreateVideo, key: str | None, caller: Caller) -> Job:
        """Queues a new video. Raises what ``new_order`` and ``JobStore.create`` do."""
        ready = self._able()
        # First without what it starts from, so that nothing is read for a wish that cannot be fulfilled.
        new_order(wish, ready, self.settings.max_seconds)
        async with self.references.taken(wish.input_reference, ready.model) as reference:
            order = new_order(wish, ready, self.settings.max_seconds, reference)
            named = wish.model_copy(update={"input_reference": reference and reference.id})
            return await self._queue(order, Lineage(), _idempotency(key, "create", named, caller), caller)

    async def remix(self, source_id: str, prompt: str, key: str | None, caller: Caller) -> Job:
        """Queues a completed video under another prompt."""
        source = await run_in_threadpool(self.store.get, source_id)
        order = remix_order(source, prompt, self._able())
        lineage = Lineage(remixed_from=source.id)
        idempotency = _idempotency(key, f"remix {source_id}", prompt, caller)
        return await self._queue(order, lineage, idempotency, caller)

    async def extend(self, wish: ExtendVideo, key: str | None, caller: Caller) -> Job:
        """Queues a completed video with more behind it."""
        await self.check_owner(wish.video.id, caller)
        source = await run_in_threadpool(self.store.get, wish.video.id)
        order = extension_order(source, wish.prompt, wish.seconds, self._able(), self.settings.max_seconds)
        lineage = Lineage(extended_from=source.id)
        return await self._queue(order, lineage, _idempotency(key, "extend", wish, caller), caller)

    async def replay(self, session_id: str, wish: ReplaySession, key: str | None, caller: Caller) -> Job:
        """Queues a session as a video, by its own log or by the one that is known here.

        Raises ``UnknownSession``, ``BadToken``, ``VideoGone`` where the picture has gone that the session started
        from, or what ``replay_order`` does.
        """
        log = wish.replay
        if log is None:
            log = await run_in_threadpool(self._sessions.find, session_id, wish.token, caller.key_id)
        async with self.references.held(log.image):
            reference = None if log.image is None else await self.references.find(log.image)
            order = replay_order(
                log, wish.size, wish.seconds, self._able(), self.settings.max_seconds, reference
            )
            idempotency = _idempotency(key, f"replay {session_id}", wish, caller)
            return await self._queue(order, Lineage(), idempotency, caller)

    async def check_owner(self, job_id: str, caller: Caller) -> None:
        """Raises ``UnknownVideo`` for a video that is another caller's."""
        await run_in_threadpool(self.store.check_owner, job_id, caller)

    async def id_of_upload(self, upload: UploadFile, caller: Caller) -> str:
        """The video whose file was sent along, as it was downloaded. Raises ``UnsupportedField`` for any other."""
        digest = await run_in_threadpool(sha256_of, upload.file)
        job_id = await run_in_threadpool(self.store.id_of_file, digest, caller)
        if job_id is None:
            raise UnsupportedField(
                "Only a video that was made here can be gone on from: send its file as it was downloaded, or name it "
                'as {"id": ...}.',
                param="video",
            )
        return job_id

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job; its work stops within a group."""
        job, ended = await run_in_threadpool(self.store.cancel, job_id)
        self.dispatcher.stop(job_id, ended=ended)
        return job

    async def delete(self, job_id: str) -> None:
        """Forgets a job, its work and its file."""
        job = await run_in_threadpool(self.store.delete, job_id)
        self.dispatcher.stop(job_id, ended=not job.over)
        await run_in_threadpool(self.dispatcher.remove_files, job_id)
        await run_in_threadpool(self.references.release, job.order.reference)

    async def described(self, job: Job) -> Video:
        """A job with its place in the queue and the time it will take."""
        if job.over:
            return video_of(job)
        before, pixels = await run_in_threadpool(self.store.work_before, job)
        own = job.order.width * job.order.height * (job.order.frames - job.frames_done)
        eta_s = self.dispatcher.speed.seconds_for(pixels + own)
        return video_of(
            job,
            queue_position=before if job.state == "queued" else None,
            eta_s=None if eta_s is None else math.ceil(eta_s),
        )

    async def _queue(
        self, order: Order, lineage: Lineage, idempotency: Idempotency | None, caller: Caller
    ) -> Job:
        for prompt in order.prompts:
            check_prompt_length(prompt, caller)
        if order.reference is None:
            return await self._create(order, lineage, idempotency, caller)
        async with self.references.held(order.reference.id):
            # It may have gone with the last video that needed it, just before it was held.
            await self.references.find(order.reference.id)
            return await self._create(order, lineage, idempotency, caller)

    async def _create(
        self, order: Order, lineage: Lineage, idempotency: Idempotency | None, caller: Caller
    ) -> Job:
        await asyncio.gather(*(self.dispatcher.prompts.check(prompt) for prompt in order.prompts))
        retry_after_s = await self._retry_after()
        job = await run_in_threadpool(
            self.store.create,
            order,
            lineage=lineage,
            idempotency=idempotency,
            caller=caller,
            retry_after_s=retry_after_s,
        )
        log.info("video asked for", extra=fields(job=job.id, frames=order.frames, key=caller.key_id))
        self.dispatcher.wake()
        return job

    async def _retry_after(self) -> int:
        """Seconds until a place in a full queue may be free: when the job at its head is done."""
        count, pixels = await run_in_threadpool(self.store.work_before)
        seconds = self.dispatcher.speed.seconds_for(pixels / max(count, 1))
        return min(LONGEST_RETRY_S, math.ceil(seconds or 0) + 1)

    def _able(self) -> WorkerReady:
        """What the engine can make, known since its first start."""
        if self._supervisor.ready is None:
            raise NotReady(f"The engine is not ready: {self._supervisor.status.stage}.")
        return self._supervisor.ready


def _idempotency(key: str | None, kind: str, wish: BaseModel | str, caller: Caller) -> Idempotency | None:
    if key is None:
        return None
    if caller.key_id is not None:
        # Two holders of API keys may choose the same word, and it is no business of either that the other did.
        key = hashlib.sha256(f"{caller.key_id} {key}".encode()).hexdigest()
    fields = wish if isinstance(wish, str) else wish.model_dump(mode="json")
    text = json.dumps([kind, fields], sort_keys=True)
    return Idempotency(key=key, request_hash=hashlib.sha256(text.encode()).hexdigest())
