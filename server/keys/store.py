"""API keys in the server's database. Every server and every ``ultraflash keys`` that opens it sees the same ones."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, and_, delete, func, insert, or_, select, update

from ultraflash.server.database import READING, open_database
from ultraflash.server.errors import KeyNameTaken, UnknownKey
from ultraflash.server.keys.records import API_KEYS, ApiKey, KeyLimits, key_of
from ultraflash.server.keys.secret import digest_of, looks_like_secret, new_secret

_ID_BYTES = 6


class KeyStore:
    """Blocking; called from threads. Rows stay when a key is revoked, so that its id is never used again."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READING: True})
        self._clock = clock

    @classmethod
    def open(cls, url: str) -> KeyStore:
        """The keys of the database of that URL, which is to be closed. Raises ``DataUnusable``."""
        return cls(open_database(url, API_KEYS))

    def close(self) -> None:
        """Lets the connections go."""
        self._engine.dispose()

    def has_keys(self) -> bool:
        """Whether there has ever been a key: revoking the last one must not open the server to everybody."""
        with self._reader.begin() as connection:
            return connection.execute(select(API_KEYS.c.id).limit(1)).first() is not None

    def create(
        self, name: str, *, expires_at: float | None = None, limits: KeyLimits | None = None
    ) -> tuple[str, ApiKey]:
        """A new key: its text, which nobody can find out again, and what is kept. Raises ``KeyNameTaken``."""
        secret = new_secret()
        key_id = f"key_{secrets.token_hex(_ID_BYTES)}"
        named = select(func.count()).where(API_KEYS.c.name == name, self._active)
        row = {
            "id": key_id,
            "name": name,
            "digest": digest_of(secret),
            "created_at": self._clock(),
            "expires_at": expires_at,
            **asdict(limits or KeyLimits()),
        }
        with self._engine.begin() as connection:
            if connection.execute(named).scalar_one():
                raise KeyNameTaken(f"There is a key {name!r} already; choose another name.", param="name")
            connection.execute(insert(API_KEYS).values(row))
            stored = connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).mappings().one()
        return secret, key_of(stored)

    def all_keys(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        with self._reader.begin() as connection:
            rows = connection.execute(select(API_KEYS).order_by(API_KEYS.c.created_at)).mappings().all()
        return [key_of(row) for row in rows]

    def revoke(self, name_or_id: str) -> ApiKey:
        """Ends a key for good. Raises ``UnknownKey`` where no active key has that id or name."""
        named = or_(API_KEYS.c.id == name_or_id, API_KEYS.c.name == name_or_id)
        with self._engine.begin() as connection:
            row = connection.execute(select(API_KEYS).where(named, self._active)).mappings().first()
            if row is None:
                raise UnknownKey(
                    f"There is no active key {name_or_id!r}; `ultraflash keys list` shows which there are.",
                    param="key",
                )
            values = {"revoked_at": self._clock()}
            connection.execute(update(API_KEYS).where(API_KEYS.c.id == row["id"]).values(values))
            return key_of(row)

    def forget(self, key_id: str) -> None:
        """Undoes the making of a key that nobody has seen; one that was in use is revoked instead."""
        with self._engine.begin() as connection:
            connection.execute(delete(API_KEYS).where(API_KEYS.c.id == key_id))

    def find(self, secret: str) -> ApiKey | None:
        """The active key of that text."""
        if not looks_like_secret(secret):
            return None
        digest = digest_of(secret)
        with self._reader.begin() as connection:
            query = select(API_KEYS).where(API_KEYS.c.digest == digest, self._active)
            row = connection.execute(query).mappings().one_or_none()
        # The database compares digests, which nobody can choose; this comparison does not rely on its ways.
        if row is None or not hmac.compare_digest(row["digest"], digest):
            return None
        return key_of(row)

    def still_active(self, key_ids: Collection[str]) -> set[str]:
        """Those of the ids whose keys are neither revoked nor expired."""
        with self._reader.begin() as connection:
            query = select(API_KEYS.c.id).where(API_KEYS.c.id.in_(key_ids), self._active)
            return set(connection.execute(query).scalars())

    @property
    def _active(self) -> ColumnElement[bool]:
        timely = or_(API_KEYS.c.expires_at.is_(None), API_KEYS.c.expires_at > self._clock())
        return and_(API_KEYS.c.revoked_at.is_(None), timely)


def any_keys(url: str, file: Path | None) -> bool:
    """Whether a database has keys, without laying it where its file is not there yet. Raises ``DataUnusable``."""
    if file is not None and not file.exists():
        return False
    store = KeyStore.open(url)
    try:
        return store.has_keys()
    finally:
        store.close()
