"""What the web process runs behind its routes: sessions, jobs, keys, and what keeps files and tables tidy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine

from ultraflash.server.background_tasks import BackgroundTasks
from ultraflash.server.database import open_database
from ultraflash.server.jobs.artifacts import ArtifactStore
from ultraflash.server.jobs.catalogue import StoreLimits
from ultraflash.server.jobs.references import References
from ultraflash.server.jobs.service import JobService
from ultraflash.server.jobs.store import JobStore
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.revocation import end_sessions_of_dead_keys
from ultraflash.server.keys.store import KeyStore
from ultraflash.server.keys.tickets import Tickets
from ultraflash.server.metrics import Metrics
from ultraflash.server.ownership import own_name
from ultraflash.server.recording_shelf import TIDY_EVERY_S, RecordingShelf, tidy_recordings
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.session_logs import LiveLogs, RecordedLogs, SessionLogs, StoredLogs
from ultraflash.server.session_registry import KEEP_EVERY_S
from ultraflash.server.session_store import SessionStore
from ultraflash.server.settings import Settings
from ultraflash.server.snapshot_folder import SnapshotFolder, snapshot_root
from ultraflash.server.stream_server import StreamServer
from ultraflash.server.tables import TABLES
from ultraflash.server.tracing import open_tracer
from ultraflash.server.worker.supervisor import WorkerSupervisor

WORKER_STOP_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One of each, sharing the settings, the worker and the database."""

    server: StreamServer
    jobs: JobService
    keyring: Keyring
    tickets: Tickets
    shelf: RecordingShelf
    database: Engine
    background: BackgroundTasks

    @classmethod
    def build(cls, settings: Settings, *, on_worker_failed: Callable[[], None] | None) -> Services:
        """Makes them; nothing runs yet. ``on_worker_failed`` is called once when no worker can be had, for good.

        Raises ``DataUnusable``.
        """
        me, data = own_name(), settings.data
        database = open_database(data.database_url, *TABLES)
        snapshots = SnapshotFolder(snapshot_root(data), me)
        supervisor = WorkerSupervisor(settings.configure(snapshots.path), on_failed=on_worker_failed)
        sessions = SessionStore(database, me=me)
        jobs = JobStore(database, store_limits(settings), me=me)
        artifacts = ArtifactStore(data.artifacts_url)
        references = References(
            supervisor,
            artifacts,
            lambda: jobs.references_in_use() | sessions.references_in_use(),
            data.uploads_folder,
            settings.jobs,
        )
        server = _stream_server(settings, supervisor, snapshots, sessions, references)
        keyring = Keyring(
            KeyStore(database), required=settings.http.key_required, defaults=settings.keys.limits
        )
        return cls(
            server=server,
            jobs=JobService(
                settings,
                supervisor,
                server.metrics,
                me=me,
                store=jobs,
                artifacts=artifacts,
                references=references,
                sessions=SessionLogs(
                    LiveLogs(server.sessions), RecordedLogs(data.recordings), StoredLogs(server.archive)
                ),
            ),
            keyring=keyring,
            tickets=Tickets(keyring, lifetime_s=settings.keys.ticket_s),
            shelf=RecordingShelf(
                data.recordings,
                quota_bytes=data.recordings_quota_bytes,
                expire_after_s=data.recordings_expire_after_s,
                in_use=server.sessions.is_recording,
            ),
            database=database,
            background=BackgroundTasks(server.metrics),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the worker and everything else runs; at its end sessions are over and files are closed."""
        server = self.server
        server.snapshots.open()
        await server.take_over()
        keeping = asyncio.create_task(
            self.background.repeat("sessions", server.sessions.keep, every_s=KEEP_EVERY_S)
        )
        async with self.jobs.running():
            supervision = asyncio.create_task(server.supervisor.run())
            tidying = asyncio.create_task(
                self.background.repeat("recordings", self._tidy, every_s=TIDY_EVERY_S)
            )
            revocation = asyncio.create_task(
                self.background.repeat(
                    "keys",
                    partial(end_sessions_of_dead_keys, server, self.keyring),
                    every_s=server.settings.keys.check_every_s,
                    trouble="API keys cannot be looked up",
                )
            )
            yield
            revocation.cancel()
            tidying.cancel()
            await server.sessions.end_all()
            await _stop_worker(server.supervisor, supervision)
        keeping.cancel()
        await asyncio.to_thread(server.archive.close)
        server.snapshots.close()
        self.database.dispose()
        server.tracer.close()

    async def _tidy(self) -> None:
        await tidy_recordings(self.shelf, self.server.sessions.end_recordings)


def _stream_server(
    settings: Settings,
    supervisor: WorkerSupervisor,
    snapshots: SnapshotFolder,
    store: SessionStore,
    references: References,
) -> StreamServer:
    return StreamServer(
        settings=settings,
        supervisor=supervisor,
        metrics=Metrics(),
        tracer=open_tracer(
            "web",
            exporter=settings.traces.exporter,
            endpoint=settings.traces.endpoint,
            folder=settings.traces.folder_name,
        ),
        snapshots=snapshots,
        archive=SessionArchive(store),
        references=references,
    )


def store_limits(settings: Settings) -> StoreLimits:
    """What the store of jobs takes."""
    return StoreLimits(
        max_queued=settings.jobs.max_queued,
        quota_bytes=settings.data.quota_bytes,
        max_attempts=settings.jobs.max_attempts,
        lease_s=settings.jobs.lease_s,
        expire_after_s=settings.jobs.expire_after_s,
    )


async def _stop_worker(supervisor: WorkerSupervisor, supervision: asyncio.Task[None]) -> None:
    supervisor.stop()
    _, unfinished = await asyncio.wait({supervision}, timeout=WORKER_STOP_S)
    for task in unfinished:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await supervision
