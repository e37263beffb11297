"""Databases for the tests of jobs: SQLite always, PostgreSQL where its program is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ultraflash.server.database import METADATA, open_database
from ultraflash.server.errors import DataUnusable
from ultraflash.server.jobs.catalogue import StoreLimits
from ultraflash.server.jobs.records import JOB_TABLES, Cue, Order
from ultraflash.server.jobs.store import JobStore
from ultraflash.server.keys.records import API_KEYS

ME = "this-host:1:aa"
LIMITS = StoreLimits(max_queued=100, quota_bytes=2**30, max_attempts=3, lease_s=30.0, expire_after_s=3600.0)


def postgres_programs() -> Path | None:
    """Folder of ``initdb`` and ``postgres``."""
    found = shutil.which("initdb") or shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of its own on a socket in a folder of its own."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:
        # It refuses to run as root.
        user = "postgres"
        if user not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    # Not below pytest's folder, which another user cannot enter.
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), Path(name) / "data"
        if user is not None:
            shutil.chown(folder, user)
        initdb = [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", folder]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options], user=user, cwd=folder, stderr=log
            )
        url = f"postgresql+psycopg://tester@/postgres?host={folder}"
        try:
            wait_for_database(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()


def wait_for_database(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no PostgreSQL:\n{log.read_text()}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        open_database(url).dispose()
    except DataUnusable:
        return False
    return True


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
