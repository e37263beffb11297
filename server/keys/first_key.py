"""The first API key of a server that is to be closed from its first start, put where its operator finds it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TextIO

from ultraflash.server.errors import DataUnusable, KeyNameTaken
from ultraflash.server.keys.store import KeyStore

NAME = "first"


def make_first_key(url: str, file: Path) -> bool:
    """Makes a key in a database that has never had one, and writes it to ``file``, which its owner alone can read.

    Returns whether it did; where there is or was a key the file is left alone. Raises ``DataUnusable``.
    """
    store = KeyStore.open(url)
    try:
        return not store.has_keys() and _make(store, file)
    finally:
        store.close()


def _make(store: KeyStore, file: Path) -> bool:
    """The place is tried first, so that no key is made that nobody ever sees."""
    # Of a name of its own: several servers of one database may be at this at once.
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as writing:
            try:
                return _write(store, writing, part, file)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataUnusable(
            f"The first API key cannot be written to {file}: {error}.", param="keys.first_file"
        ) from error


def _write(store: KeyStore, writing: TextIO, part: Path, file: Path) -> bool:
    try:
        secret, key = store.create(NAME)
    except KeyNameTaken:
        # Another server of this database has made it in the meantime.
        return False
    try:
        writing.write(f"{secret}\n")
        writing.flush()
        part.replace(file)
    except OSError:
        # With it in the database the next start would make none, and nobody could come in.
        store.forget(key.id)
        raise
    return True
