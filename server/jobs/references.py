"""Uploads that videos and sessions start from: taken from the request, read by the worker, kept beside the videos."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from ultraflash.server.errors import InvalidField, NotReady, QueueFull, ReferenceRefused
from ultraflash.server.jobs.artifacts import ArtifactStore
from ultraflash.server.jobs.records import Reference
from ultraflash.server.media.data_url import DATA_URL, bytes_of
from ultraflash.server.media.signatures import ACCEPTED, HEAD_BYTES, Kinds
from ultraflash.server.settings import JobSettings
from ultraflash.server.worker.messages import ReadReference, ReferenceRead
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)

MAX_WAITING = 8
PATIENCE_S = 120.0
STALE_S = 3600.0
FIELD = "input_reference"


def uploaded(value: Any) -> bytes | None:
    """The bytes of ``input_reference``: a file, a data URL, or an object with one as ``image_url``; None for none.

    Raises ``InvalidField`` for anything else.
    """
    if isinstance(value, dict) and set(value) == {"image_url"}:
        value = value["image_url"]
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.startswith(DATA_URL):
        raise InvalidField(
            f'{FIELD} is a file of a form, or a data URL, alone or as {{"image_url": ...}}; other addresses are not '
            "fetched.",
            param=FIELD,
        )
    return bytes_of(value, FIELD)


class References:
    """Reads uploads and keeps their frames for as long as something needs them.

    Args:
        in_use: ids of those that something stored needs. Blocking.
        folder: of uploads while they are read.
    """

    def __init__(
        self,
        supervisor: WorkerSupervisor,
        artifacts: ArtifactStore,
        in_use: Callable[[], Set[str]],
        folder: Path,
        settings: JobSettings,
    ) -> None:
        self._supervisor = supervisor
        self._artifacts = artifacts
        self._in_use = in_use
        self._folder = folder
        self._settings = settings
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[ReferenceRead | None]] = {}
        self._reading = 0
        # When this server put frames that no other one had put; in Unix seconds.
        self._put_at: dict[str, float] = {}
        self._fetched: set[Path] = set()
        # By requests of this server that are not answered yet; whoever removes frames has the lock.
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @asynccontextmanager
    async def taken(self, value: Any, model: str) -> AsyncIterator[Reference | None]:
        """Reads what a request has as ``input_reference``, None if it has nothing there, and keeps it for the block.

        Raises ``InvalidField``, ``ReferenceRefused``, ``QueueFull`` or ``NotReady``.
        """
        upload = await run_in_threadpool(uploaded, value)
        if upload is None:
            yield None
            return
        async with self.read(upload, model, ACCEPTED) as reference:
            yield reference

    @asynccontextmanager
    async def read(self, upload: bytes, model: str, kinds: Kinds) -> AsyncIterator[Reference]:
        """Reads an upload of one of these kinds and keeps it for the block, and behind it while something needs it.

        Raises ``ReferenceRefused``, ``QueueFull`` or ``NotReady``.
        """
        demuxer = kinds.demuxer_of(upload[:HEAD_BYTES])
        if demuxer is None:
            raise ReferenceRefused("bad_reference", f"The file is of a kind that is not read. Send {kinds}.")
        digest = hashlib.sha256(f"{model}\0".encode() + upload).hexdigest()
        async with self.held(digest):
            with self._place():
                size = await self._read_and_put(upload, demuxer, digest)
            # Megabytes, and the block may last.
            del upload
            yield Reference(id=digest, bytes=size)

    @asynccontextmanager
    async def held(self, reference_id: str | None) -> AsyncIterator[None]:
        """Removes frames in no case while the block runs, and behind it unless something stored needs them."""
        if reference_id is None:
            yield
            return
        await run_in_threadpool(self._hold, reference_id)
        try:
            yield
        finally:
            await run_in_threadpool(self._let_go, reference_id)

    async def find(self, reference_id: str) -> Reference:
        """Frames that are held and were read before. Raises ``VideoGone`` where they have gone."""
        size = await run_in_threadpool(self._artifacts.reference_bytes, reference_id)
        return Reference(id=reference_id, bytes=size)

    async def fetch(self, reference: Reference) -> Path:
        """A copy of frames in the folder of uploads, which is the caller's to remove. Raises ``VideoGone``."""
        path = self._folder / f"{secrets.token_hex(8)}.npy"
        await run_in_threadpool(self.bring, reference.id, path)
        self._fetched.add(path)
        return path

    def bring(self, reference_id: str, path: Path) -> None:
        """Copies frames to a file. Blocking. Raises ``VideoGone``."""
        self._artifacts.fetch_reference(reference_id, path)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of few at a time, counted before anything is waited for. Raises ``QueueFull``."""
        if self._reading >= MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} uploads are being read already; try again.", retry_after_s=5)
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    async def _read_and_put(self, upload: bytes, demuxer: str, digest: str) -> int:
        path = self._folder / secrets.token_hex(8)
        frames = path.with_suffix(".npy")
        try:
            await run_in_threadpool(self._write, path, upload)
            await self._read(path, demuxer, frames)
            return await run_in_threadpool(self.put, frames, digest)
        finally:
            await run_in_threadpool(_remove, path, frames)

    def put(self, frames: Path, digest: str) -> int:
        """Moves frames that are held to their place; returns their bytes. Blocking."""
        before = self._artifacts.reference_changed_at(digest)
        size = self._artifacts.put_reference(frames, digest)
        changed_at = self._artifacts.reference_changed_at(digest)
        if changed_at is not None and before in (None, self._put_at.get(digest)):
            self._put_at[digest] = changed_at
        return size

    def _write(self, path: Path, upload: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(upload)

    async def _read(self, path: Path, demuxer: str, target: Path) -> None:
        if not self._supervisor.is_ready:
            raise NotReady(f"The engine is not ready: {self._supervisor.status.stage}.")
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        limits = self._settings
        self._supervisor.send(
            ReadReference(
                check_id=number,
                path=str(path),
                demuxer=demuxer,
                target=str(target),
                max_pixels=limits.max_reference_pixels,
                max_frames=limits.max_reference_frames,
                max_seconds=limits.max_reference_seconds,
                cpu_s=limits.reference_cpu_s,
            )
        )
        try:
            report = await asyncio.wait_for(answer, PATIENCE_S)
        except asyncio.TimeoutError:
            report = None
        finally:
            del self._open[number]
        if report is None:
            raise NotReady("The engine was too busy to read the upload, or was replaced; send it again.")
        if report.code is not None:
            raise ReferenceRefused(report.code, report.message)

    def on_read(self, report: ReferenceRead) -> None:
        """The worker's answer."""
        answer = self._open.get(report.check_id)
        if answer is not None and not answer.done():
            answer.set_result(report)

    def on_worker_lost(self) -> None:
        """No answer will come."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(None)

    def release(self, reference: Reference | None) -> None:
        """Removes frames that nothing needs any more. Blocking."""
        if reference is not None:
            with self._lock:
                self._remove_unless_needed(reference.id)

    def tidy(self) -> None:
        """Removes what requests that were broken off have left, here or on a server with the same places. Blocking."""
        self._renew_fetched()
        old = time.time() - STALE_S
        in_use = self._in_use()
        found = self._artifacts.references()
        for digest, changed_at in found:
            if digest not in in_use and changed_at < old:
                with self._lock:
                    self._remove_unless_needed(digest)
        for digest in self._put_at.keys() - {digest for digest, _ in found}:
            self._put_at.pop(digest, None)
        for file in self._folder.glob("*"):
            # Another server may tidy here too.
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < old:
                    file.unlink()

    def _renew_fetched(self) -> None:
        """Those whose sessions still wait are not taken for what was left behind."""
        self._fetched -= {path for path in list(self._fetched) if not path.exists()}
        for path in list(self._fetched):
            with suppress(FileNotFoundError):
                os.utime(path)

    def _hold(self, reference_id: str) -> None:
        with self._lock:
            self._held[reference_id] += 1

    def _let_go(self, reference_id: str) -> None:
        with self._lock:
            self._held[reference_id] -= 1
            if not self._held[reference_id]:
                del self._held[reference_id]
                self._remove_unless_needed(reference_id)

    def _remove_unless_needed(self, reference_id: str) -> None:
        if reference_id in self._held or reference_id in self._in_use():
            return
        changed_at = self._artifacts.reference_changed_at(reference_id)
        if changed_at is None:
            return
        # A request at another server may need the same frames and have stored nothing yet: ``tidy`` takes them.
        if changed_at == self._put_at.get(reference_id) or changed_at < time.time() - STALE_S:
            self._artifacts.remove_reference(reference_id)
            self._put_at.pop(reference_id, None)


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
