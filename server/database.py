"""The database of jobs, sessions and API keys: SQLite with a write-ahead log, or any other that SQLAlchemy opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, MetaData, Table, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ultraflash.server.errors import DataUnusable

METADATA = MetaData()
"""Of all tables, which lie with what they hold."""
READING = "reading"
BUSY_WAIT_MS = 30_000
# A server that hangs within a transaction keeps its job locked, from those that would take it over, for so long.
IDLE_IN_TRANSACTION_MS = 15_000


def open_database(url: str, *tables: Table) -> Engine:
    """Connects and lays these tables where they are missing. Raises ``DataUnusable``.

    Who opens one disposes of it; stores only use it, so that all of a server share its connections.
    """
    try:
        parsed = make_url(url)
        engine = _sqlite(url, parsed.database) if parsed.drivername.startswith("sqlite") else _server(url)
        METADATA.create_all(engine, tables=tables)
        _add_new_columns(engine, tables)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise DataUnusable(
            f"data.database cannot be used: {error}. SQLite and PostgreSQL are written sqlite:///FILE and "
            "postgresql+psycopg://USER@HOST/NAME; the latter needs the package psycopg.",
            param="data.database",
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise DataUnusable(f"The database cannot be opened: {error}", param="data.database") from error
    return engine


def _add_new_columns(engine: Engine, tables: Sequence[Table]) -> None:
    """Brings tables of an older version up to date: new columns take no value, so that nothing has to be moved."""
    with engine.begin() as connection:
        for table in tables:
            if engine.dialect.name == "postgresql" and _missing(connection, table):
                # Another server may be at it; SQLite lets only one write anyway.
                connection.exec_driver_sql(f'LOCK TABLE "{table.name}" IN ACCESS EXCLUSIVE MODE')
            for column in _missing(connection, table):
                kind = column.type.compile(engine.dialect)
                connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {kind}')
            for index in table.indexes:
                index.create(connection, checkfirst=True)


def _missing(connection: Connection, table: Table) -> list[Column[Any]]:
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return [column for column in table.columns if column.name not in there and column.nullable]


def _server(url: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    if engine.dialect.name == "postgresql":

        @event.listens_for(engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
            connection.commit()

    return engine


def _sqlite(url: str, file: str | None) -> Engine:
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    # Errors name their parameters otherwise, prompts among them, and end up in the log.
    engine = create_engine(url, connect_args={"check_same_thread": False}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        # The driver's own idea of when a transaction begins would let two writers start from the same snapshot.
        connection.isolation_level = None
        for pragma in (f"busy_timeout={BUSY_WAIT_MS}", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        reading = connection.get_execution_options().get(READING)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
