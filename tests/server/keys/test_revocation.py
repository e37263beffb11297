"""Live sessions of revoked keys end, though the database may have been away in between."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from postgres import Postgres, why_no_postgres

from ultraflash.server.keys.store import KeyStore

if TYPE_CHECKING:
    from live_server import LiveServer

FAILED = 'ultraflash_background_failures_total{task="keys"}'


class SqliteFile:
    """A database whose keys can be taken from it, which no error of a connection is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ultraflash.db"
        self.url = f"sqlite:///{self._file}"

    def stop(self) -> None:
        self._run("ALTER TABLE api_keys RENAME TO keys_elsewhere")

    def start(self) -> None:
        self._run("ALTER TABLE keys_elsewhere RENAME TO api_keys")

    def _run(self, statement: str) -> None:
        connection = sqlite3.connect(self._file, timeout=60)
        with connection:
            connection.execute(statement)
        connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteFile | Postgres]:
    """A running database that the test can stop and start."""
    if request.param == "sqlite":
        yield SqliteFile(tmp_path)
        return
    if missing := why_no_postgres():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(Path(folder))
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()


def failures(server: LiveServer) -> float:
    lines = server.get("/metrics")[1].splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(FAILED))


async def test_keys_are_watched_again_when_the_database_is_back(
    start_server: Callable[..., LiveServer], database: SqliteFile | Postgres
) -> None:
    settings = {"data__database": database.url, "http__auth": "required", "http__open_metrics": "true"}
    server = start_server(**settings, keys__check_every_s=0.2)
    server.wait_until_ready()
    store = KeyStore.open(database.url)
    secret, key = store.create("leaked")
    store.close()
    async with server.client(additional_headers={"Authorization": f"Bearer {secret}"}) as client:
        await client.start()
        await client.until_frame(5)
        assert failures(server) == 0
        database.stop()
        server.wait_for(lambda: failures(server) >= 2, "failures")
        status, body = server.get("/readyz")
        assert (status, body["ready"], body["stage"]) == (503, False, "API keys cannot be looked up")
        server.wait_for_metric("ultraflash_ready 0.0")
        # Who plays goes on.
        await client.until_frame(client.frames()[-1][0].seq + 24)
        database.start()
        server.wait_until_ready()
        server.wait_for_metric("ultraflash_ready 1.0")
        store = KeyStore.open(database.url)
        store.revoke(key.id)
        store.close()
        assert (await client.until("session.done"))["reason"] == "key_revoked"
    assert server.output().count("the background task 'keys' succeeds again") == 1
