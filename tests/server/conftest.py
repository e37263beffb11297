"""Real servers for the tests of this folder: a uvicorn process with a worker process each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RIG = Path(__file__).parent / "rig"
# The worker of a test server imports the pattern engine by name, and so do the tests.
sys.path.append(str(RIG))

from live_server import LiveServer  # noqa: E402
from postgres import running_postgres  # noqa: E402
from s3_server import Bucket, running_s3  # noqa: E402

StartServer = Callable[..., LiveServer]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the pattern engine that many tests share."""
    with LiveServer(tmp_path_factory.mktemp("server"), stream__max_streams=8) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with settings of their own, and stops them after the test."""
    running: list[LiveServer] = []

    def start(*options: str, **settings: object) -> LiveServer:
        running.append(LiveServer(tmp_path, *options, **settings))
        running[-1].start()
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL that the tests of a run share."""
    yield from running_postgres()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket of S3 that the tests of a run share."""
    yield from running_s3()
