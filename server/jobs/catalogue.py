"""What is known of jobs: questions to the database that change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Float, cast, func, or_, select

from ultraflash.server.database import READING
from ultraflash.server.errors import UnknownVideo
from ultraflash.server.jobs.records import (
    EVENTS,
    JOBS,
    WAITING,
    WITH_REFERENCE,
    Job,
    JobEvent,
    event_of,
    job_of,
    script_of,
)
from ultraflash.server.keys.records import ANYBODY, Caller

_ID = re.compile(r"video_[0-9a-f]{24}")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """What a store takes: jobs that wait, bytes of all videos, lives of the worker without progress."""

    max_queued: int
    quota_bytes: int
    max_attempts: int
    lease_s: float
    expire_after_s: float


class JobCatalogue:
    """Blocking; called from threads."""

    def __init__(self, engine: Engine, limits: StoreLimits, clock: Clock) -> None:
        self.limits = limits
        self._reader = engine.execution_options(**{READING: True})
        self._clock = clock

    def get(self, job_id: str) -> Job:
        """One job. Raises ``UnknownVideo``."""
        with self._reader.begin() as connection:
            return job_in(connection, job_id)

    def check_owner(self, job_id: str, caller: Caller) -> None:
        """Raises ``UnknownVideo`` for a job that is another one's, as for one that is not there."""
        with self._reader.begin() as connection:
            _own_job(connection, job_id, caller)

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, caller: Caller = ANYBODY
    ) -> tuple[list[Job], bool]:
        """The caller's jobs in the order of arrival behind ``after``, and whether more follow.

        Raises ``UnknownVideo``.
        """
        with self._reader.begin() as connection:
            query = (
                select(JOBS)
                .where(JOBS.c.key_id == caller.key_id)
                .order_by(JOBS.c.number.desc() if newest_first else JOBS.c.number)
                .limit(limit + 1)
            )
            if after is not None:
                number = _own_job(connection, after, caller, param="after").number
                query = query.where(JOBS.c.number < number if newest_first else JOBS.c.number > number)
            rows = connection.execute(query).mappings().all()
        return [job_of(row) for row in rows[:limit]], len(rows) > limit

    def events(self, job_id: str, *, after: int = 0) -> list[JobEvent]:
        """The log of a job behind the event numbered ``after``."""
        query = select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.number > after)
        with self._reader.begin() as connection:
            rows = connection.execute(query.order_by(EVENTS.c.number)).mappings().all()
        return [event_of(row) for row in rows]

    def id_of_file(self, file_sha256: str, caller: Caller = ANYBODY) -> str | None:
        """The caller's newest job that has made this very file."""
        query = select(JOBS.c.id).where(JOBS.c.file_sha256 == file_sha256, JOBS.c.key_id == caller.key_id)
        with self._reader.begin() as connection:
            newest = query.order_by(JOBS.c.number.desc()).limit(1)
            return connection.execute(newest).scalar_one_or_none()

    def is_waiting(self, job_id: str) -> bool:
        """Whether a job is there and not over."""
        query = select(func.count()).where(JOBS.c.id == job_id, JOBS.c.state.in_(WAITING))
        with self._reader.begin() as connection:
            return connection.execute(query).scalar_one() > 0

    def work_before(self, job: Job | None = None) -> tuple[int, float]:
        """Jobs ahead of this one, or of one that would come now, and the pixels that they have yet to make."""
        # As floating point from the start: the product does not fit an integer of PostgreSQL.
        pixels = cast(JOBS.c.width, Float) * JOBS.c.height * (JOBS.c.frames - JOBS.c.frames_done)
        query = select(func.count(), func.coalesce(func.sum(pixels), 0.0)).where(JOBS.c.state.in_(WAITING))
        if job is not None:
            query = query.where(JOBS.c.number < job.number)
        with self._reader.begin() as connection:
            count, work = connection.execute(query).one()
        return int(count), float(work)

    def expired(self) -> list[str]:
        """Jobs whose file is to go by now."""
        query = select(JOBS.c.id).where(JOBS.c.has_file, JOBS.c.expires_at <= self._clock())
        with self._reader.begin() as connection:
            return list(connection.execute(query.order_by(JOBS.c.number)).scalars())

    def references_in_use(self) -> set[str]:
        """Ids of what jobs start from that are to be made yet, or can be gone on from."""
        needed = or_(JOBS.c.state.in_(WAITING), JOBS.c.has_file)
        query = select(JOBS.c.cues).where(needed, JOBS.c.cues.startswith(WITH_REFERENCE))
        with self._reader.begin() as connection:
            scripts = [script_of(text) for text in connection.execute(query).scalars()]
        return {reference.id for _, reference in scripts if reference is not None}

    def beyond_quota(self, coming_bytes: int) -> list[str]:
        """The oldest finished jobs whose files have to go so that ``coming_bytes`` more fit."""
        query = select(JOBS.c.id, JOBS.c.room_bytes).where(JOBS.c.has_file).order_by(JOBS.c.completed_at)
        with self._reader.begin() as connection:
            files = connection.execute(query).all()
        excess = sum(row.room_bytes for row in files) + coming_bytes - self.limits.quota_bytes
        going = []
        for row in files:
            if excess <= 0:
                break
            going.append(row.id)
            excess -= row.room_bytes
        return going


def job_in(connection: Connection, job_id: str, *, lock: bool = False, param: str | None = None) -> Job:
    """One job, for the time of the transaction where it is to be locked. Raises ``UnknownVideo``."""
    query = select(JOBS).where(JOBS.c.id == job_id)
    row = None
    # Not everything that a path can hold can be asked for in PostgreSQL.
    if _ID.fullmatch(job_id):
        row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise _unknown(job_id, param)
    return job_of(row)


def _own_job(connection: Connection, job_id: str, caller: Caller, *, param: str | None = None) -> Job:
    job = job_in(connection, job_id, param=param)
    if job.key_id != caller.key_id:
        raise _unknown(job_id, param)
    return job


def _unknown(job_id: str, param: str | None) -> UnknownVideo:
    return UnknownVideo(f"There is no video {job_id!r}; it may have been deleted.", param=param)
