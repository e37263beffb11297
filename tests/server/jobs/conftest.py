"""Databases for the tests of jobs: SQLite always, PostgreSQL where its program is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ultraflash.server.database import METADATA, open_database
from ultraflash.server.jobs.catalogue import StoreLimits
from ultraflash.server.jobs.records import JOB_TABLES, Cue, Order
from ultraflash.server.jobs.store import JobStore
from ultraflash.server.keys.records import API_KEYS

ME = "this-host:1:aa"
LIMITS = StoreLimits(max_queued=100, quota_bytes=2**30, max_attempts=3, lease_s=30.0, expire_after_s=3600.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    url: str = request.getfixturevalue("postgres_url")
    engine = open_database(url)
    METADATA.drop_all(engine)
    engine.dispose()
    return url


class Clock:
    """A clock that stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(database_url: str, clock: Clock) -> Iterator[Callable[..., JobStore]]:
    """Opens the database as one server or another."""
    engines = []

    def open_(me: str = ME, limits: StoreLimits = LIMITS) -> JobStore:
        engines.append(open_database(database_url, *JOB_TABLES, API_KEYS))
        return JobStore(engines[-1], limits, me=me, clock=clock)

    yield open_
    for engine in engines:
        engine.dispose()


@pytest.fixture
def store(open_store: Callable[..., JobStore]) -> JobStore:
    return open_store()


def order(prompt: str = "a hill", *, frames: int = 100, seed: int = 7) -> Order:
    return Order(
        model="pattern",
        cues=(Cue(frame=0, prompt=prompt),),
        width=224,
        height=128,
        fps=16,
        frames=frames,
        seed=seed,
    )


@pytest.fixture
def make_order() -> Callable[..., Order]:
    return order
