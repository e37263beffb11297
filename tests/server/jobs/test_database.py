"""Opening the database: what it is told to be, or an error that says how to write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from ultraflash.server.database import READING, open_database
from ultraflash.server.errors import DataUnusable
from ultraflash.server.jobs.records import JOB_TABLES


def test_sqlite_has_a_log_ahead_and_waits_for_other_writers(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'new' / 'jobs.db'}")
    with engine.execution_options(**{READING: True}).begin() as connection:
        pragmas = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    engine.dispose()
    assert pragmas == ["wal", 2, 30_000]


@pytest.mark.parametrize(
    "url",
    ["nonsense", "nowhere://host/name", "sqlite:////proc/nothing/jobs.db", "postgresql+nodriver://host/name"],
)
def test_a_database_that_cannot_be_opened_is_said_at_once(url: str) -> None:
    with pytest.raises(DataUnusable) as error:
        open_database(url)
    assert error.value.param == "data.database"


def test_a_file_that_is_no_database_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    file.write_text("not a database, but long enough to be taken for one " * 100)
    with pytest.raises(DataUnusable, match="cannot be opened"):
        open_database(f"sqlite:///{file}")


def test_a_database_of_an_older_version_gets_the_new_columns(database_url: str) -> None:
    engine = open_database(database_url, *JOB_TABLES)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_jobs_key_id")
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN key_id")
    engine.dispose()
    for _ in range(2):
        engine = open_database(database_url, *JOB_TABLES)
        there = {column["name"] for column in inspect(engine).get_columns("jobs")}
        indexes = {index["name"] for index in inspect(engine).get_indexes("jobs")}
        engine.dispose()
        assert "key_id" in there
        assert "ix_jobs_key_id" in indexes


def test_postgresql_does_not_let_a_hanging_server_keep_a_row_for_ever(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    with engine.begin() as connection:
        limit = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    engine.dispose()
    assert limit == "15s"
