"""The job store: every change of a job is one transaction, so that a kill at any moment leaves a job in one state.

Many servers may share a store. A job belongs to the server whose claim it carries; what anybody else says about it
changes nothing.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ultraflash.server.errors import (
    IdempotencyConflict,
    JobFault,
    NotCancellable,
    QueueFull,
    StorageFull,
    UnknownVideo,
    VideoTooLarge,
)
from ultraflash.server.jobs.catalogue import Clock, JobCatalogue, StoreLimits, job_in
from ultraflash.server.jobs.key_limits import check_key
from ultraflash.server.jobs.records import (
    EVENTS,
    FINAL,
    JOBS,
    WAITING,
    Job,
    Lineage,
    Order,
    Reference,
    job_of,
    script_json,
    script_of,
)
from ultraflash.server.keys.records import ANYBODY, Caller
from ultraflash.server.ownership import surely_gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The key of a request, and a hash of what it asked for."""

    key: str
    request_hash: str


class JobStore(JobCatalogue):
    """The catalogue, and what changes in it. ``me`` is the name under which this server claims jobs."""

    def __init__(self, engine: Engine, limits: StoreLimits, *, me: str, clock: Clock = time.time) -> None:
        super().__init__(engine, limits, clock)
        self._engine = engine
        self._me = me

    def create(
        self,
        order: Order,
        *,
        lineage: Lineage | None = None,
        idempotency: Idempotency | None = None,
        caller: Caller = ANYBODY,
        retry_after_s: int = 5,
    ) -> Job:
        """Puts an order into the queue, or finds the job that the same request has made before.

        Raises ``IdempotencyConflict``, ``QueueFull``, ``StorageFull``, ``VideoTooLarge``, ``KeyLimitReached`` or
        ``OverLimit``.
        """
        lineage = lineage or Lineage()
        try:
            with self._engine.begin() as connection:
                if idempotency is not None:
                    before = _replayed(connection, idempotency)
                    if before is not None:
                        return before
                check_key(connection, caller, order, retry_after_s)
                self._check_room(connection, order, retry_after_s)
                return self._insert(connection, order, lineage, idempotency, caller)
        except IntegrityError:
            # Another server was faster with the same key.
            if idempotency is None:
                raise
        with self._reader.begin() as connection:
            made = _replayed(connection, idempotency)
        if made is None:
            raise UnknownVideo(
                "The job of this Idempotency-Key was deleted meanwhile; send the request again."
            )
        return made

    def claim(self, model: str) -> Job | None:
        """Takes the oldest queued job of a model, if there is one; nobody else gets it then."""
        now = self._clock()
        oldest = (
            select(JOBS.c.id)
            .where(JOBS.c.state == "queued", JOBS.c.model == model)
            .order_by(JOBS.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._engine.begin() as connection:
            job_id = connection.execute(oldest).scalar_one_or_none()
            if job_id is None:
                return None
            job = job_in(connection, job_id)
            self._set(
                connection,
                job_id,
                state="in_progress",
                owner=self._me,
                lease_until=now + self.limits.lease_s,
                started_at=job.started_at or now,
                frames_done=0,
            )
            self._log(connection, job_id, "in_progress", progress=0)
            return job_in(connection, job_id)

    def keep(self, job_id: str, frames_done: int) -> bool:
        """Renews the claim and notes how far the job is. Returns whether the claim still holds."""
        with self._engine.begin() as connection:
            job = self._mine(connection, job_id)
            if job is None:
                return False
            values: dict[str, Any] = {
                "lease_until": self._clock() + self.limits.lease_s,
                "frames_done": frames_done,
            }
            self._set(connection, job_id, **values)
            after = job_in(connection, job_id)
            if after.progress != job.progress:
                self._log(connection, job_id, "progress", progress=after.progress, frames=frames_done)
            return True

    def complete(self, job_id: str, file_bytes: int, file_sha256: str) -> bool:
        """The file is in its place. Returns whether the claim still held; the file is nobody's otherwise."""
        now = self._clock()
        with self._engine.begin() as connection:
            job = self._mine(connection, job_id)
            if job is None:
                return False
            self._finish(
                connection,
                job_id,
                "completed",
                frames_done=job.order.frames,
                expires_at=now + self.limits.expire_after_s,
                room_bytes=file_bytes,
                has_file=True,
                file_sha256=file_sha256,
            )
            self._log(connection, job_id, "completed", progress=100)
            return True

    def fail(self, job_id: str, code: str, message: str) -> bool:
        """The job cannot be done. Returns whether the claim still held."""
        with self._engine.begin() as connection:
            if self._mine(connection, job_id) is None:
                return False
            self._fail(connection, job_id, code, message)
            return True

    def give_back(self, job_id: str) -> bool:
        """The worker died on the job: it goes back to its place in the queue, or fails when it did so too often.

        Returns whether it has failed.
        """
        with self._engine.begin() as connection:
            job = self._mine(connection, job_id)
            if job is None:
                return False
            row = connection.execute(select(JOBS.c.furthest_frame).where(JOBS.c.id == job_id)).scalar_one()
            attempts = 1 if job.frames_done > row else job.attempts + 1
            self._set(connection, job_id, attempts=attempts, furthest_frame=max(row, job.frames_done))
            if attempts >= self.limits.max_attempts:
                died = f"The worker died {attempts} times on this video without getting further."
                self._fail(connection, job_id, JobFault.code, died)
                return True
            self._requeue(connection, job_id)
            return False

    def recover(self, running: str | None) -> list[str]:
        """Puts the jobs of servers that are gone back into the queue; returns their ids.

        ``running`` is the one that this server really works on, which is gone from any other that it has claimed.
        """
        now = self._clock()
        claimed = select(JOBS.c.id, JOBS.c.owner, JOBS.c.lease_until).where(JOBS.c.state == "in_progress")
        with self._engine.begin() as connection:
            rows = connection.execute(claimed.with_for_update(skip_locked=True)).all()
            lost = [
                row.id
                for row in rows
                if row.id != running
                and (row.owner == self._me or row.lease_until < now or surely_gone(row.owner, self._me))
            ]
            for job_id in lost:
                self._requeue(connection, job_id)
        return lost

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Ends a job that is not over; a cancelled one stays as it is.

        Returns the job, and whether this has ended it. Raises ``UnknownVideo`` or ``NotCancellable``.
        """
        with self._engine.begin() as connection:
            job = job_in(connection, job_id, lock=True)
            if job.state == "cancelled":
                return job, False
            if job.over:
                raise NotCancellable(
                    f"The job is {job.state}; only one that is queued or in progress can be cancelled."
                )
            self._finish(connection, job_id, "cancelled", room_bytes=0)
            self._log(connection, job_id, "cancelled", progress=job.progress)
            return job_in(connection, job_id), True

    def delete(self, job_id: str) -> Job:
        """Forgets a job; returns what it was. Raises ``UnknownVideo``."""
        with self._engine.begin() as connection:
            job = job_in(connection, job_id, lock=True)
            _erase(connection, [job_id])
            return job

    def file_removed(self, job_id: str, reason: Literal["expired", "made room"]) -> Reference | None:
        """Notes that the file is no longer there; returns what its job started from."""
        with self._engine.begin() as connection:
            self._set(connection, job_id, has_file=False, room_bytes=0)
            self._log(connection, job_id, "file_removed", reason=reason)
            row = connection.execute(select(JOBS.c.cues).where(JOBS.c.id == job_id)).one_or_none()
        return None if row is None else script_of(row.cues)[1]

    def forget_older(self, keep_s: float) -> int:
        """Forgets the jobs that were over ``keep_s`` ago and have no file; returns how many."""
        ended = and_(JOBS.c.state.in_(FINAL), JOBS.c.completed_at < self._clock() - keep_s, ~JOBS.c.has_file)
        with self._engine.begin() as connection:
            old = list(connection.execute(select(JOBS.c.id).where(ended)).scalars())
            _erase(connection, old)
        return len(old)

    def _check_room(self, connection: Connection, order: Order, retry_after_s: int) -> None:
        limits = self.limits
        queued = connection.execute(select(func.count()).where(JOBS.c.state == "queued")).scalar_one()
        if queued >= limits.max_queued:
            raise QueueFull(
                f"{queued} videos wait already, which is all that may; try again later.",
                retry_after_s=retry_after_s,
            )
        if order.room_bytes > limits.quota_bytes:
            raise VideoTooLarge(
                f"The video may need {order.room_bytes} bytes, and {limits.quota_bytes} are there for all videos; "
                "ask for a shorter or smaller one.",
                param="seconds",
            )
        promised = select(func.coalesce(func.sum(JOBS.c.room_bytes), 0)).where(JOBS.c.state.in_(WAITING))
        if connection.execute(promised).scalar_one() + order.room_bytes > limits.quota_bytes:
            raise StorageFull(
                "The videos in the queue have been promised all the room; try again when some are done.",
                retry_after_s=retry_after_s,
            )

    def _insert(
        self,
        connection: Connection,
        order: Order,
        lineage: Lineage,
        idempotency: Idempotency | None,
        caller: Caller,
    ) -> Job:
        job_id = f"video_{secrets.token_hex(12)}"
        row = {
            "id": job_id,
            "state": "queued",
            "model": order.model,
            "cues": script_json(order),
            "width": order.width,
            "height": order.height,
            "fps": order.fps,
            "frames": order.frames,
            "seed": order.seed,
            "remixed_from": lineage.remixed_from,
            "extended_from": lineage.extended_from,
            "created_at": self._clock(),
            "frames_done": 0,
            "furthest_frame": 0,
            "attempts": 0,
            "room_bytes": order.room_bytes,
            "has_file": False,
            "idempotency_key": idempotency and idempotency.key,
            "request_hash": idempotency and idempotency.request_hash,
            "key_id": caller.key_id,
        }
        connection.execute(insert(JOBS).values(row))
        self._log(connection, job_id, "queued", progress=0)
        return job_in(connection, job_id)

    def _mine(self, connection: Connection, job_id: str) -> Job | None:
        """The job, locked, while this server's claim on it holds."""
        claimed = select(JOBS).where(
            JOBS.c.id == job_id, JOBS.c.state == "in_progress", JOBS.c.owner == self._me
        )
        row = connection.execute(claimed.with_for_update()).mappings().one_or_none()
        return None if row is None else job_of(row)

    def _requeue(self, connection: Connection, job_id: str) -> None:
        self._set(connection, job_id, state="queued", owner=None, lease_until=None, frames_done=0)
        self._log(connection, job_id, "restarted", progress=0)

    def _fail(self, connection: Connection, job_id: str, code: str, message: str) -> None:
        self._finish(connection, job_id, "failed", error_code=code, error_message=message, room_bytes=0)
        self._log(connection, job_id, "failed", code=code, message=message)

    def _finish(self, connection: Connection, job_id: str, state: str, **values: Any) -> None:
        self._set(
            connection,
            job_id,
            state=state,
            owner=None,
            lease_until=None,
            completed_at=self._clock(),
            **values,
        )

    def _set(self, connection: Connection, job_id: str, **values: Any) -> None:
        connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(values))

    def _log(self, connection: Connection, job_id: str, kind: str, **data: Any) -> None:
        row = {"job_id": job_id, "at": self._clock(), "kind": kind, "data": json.dumps(data)}
        connection.execute(insert(EVENTS).values(row))


def _replayed(connection: Connection, idempotency: Idempotency) -> Job | None:
    query = select(JOBS).where(JOBS.c.idempotency_key == idempotency.key)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    if row["request_hash"] != idempotency.request_hash:
        raise IdempotencyConflict(
            "This Idempotency-Key came with another request before; use a new one for a new request.",
            param="Idempotency-Key",
        )
    return job_of(row)


def _erase(connection: Connection, job_ids: Sequence[str]) -> None:
    connection.execute(delete(EVENTS).where(EVENTS.c.job_id.in_(job_ids)))
    connection.execute(delete(JOBS).where(JOBS.c.id.in_(job_ids)))
