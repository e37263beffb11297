"""Keys in the database: shown once, found by their digest, ended for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ultraflash.server.database import open_database
from ultraflash.server.errors import KeyNameTaken, UnknownKey
from ultraflash.server.keys.records import API_KEYS, KeyLimits
from ultraflash.server.keys.secret import new_secret
from ultraflash.server.keys.store import KeyStore, any_keys


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.db"


@pytest.fixture
def store(file: Path, clock: Clock) -> Iterator[KeyStore]:
    store = KeyStore(open_database(f"sqlite:///{file}", API_KEYS), clock=clock)
    yield store
    store.close()


def test_a_key_is_found_by_its_text_and_comes_with_its_limits(store: KeyStore) -> None:
    secret, made = store.create("studio", limits=KeyLimits(max_sessions=3))
    assert store.find(secret) == made
    assert (made.name, made.limits.max_sessions, made.limits.max_jobs) == ("studio", 3, None)
    assert store.find(new_secret()) is None
    assert store.find("Bearer") is None


def test_the_text_of_a_key_is_nowhere_in_the_database(store: KeyStore, file: Path) -> None:
    secret, _ = store.create("studio")
    with sqlite3.connect(file) as connection:
        rows = list(connection.iterdump())
    assert any("studio" in row for row in rows)
    assert not any(secret in row or secret[3:] in row for row in rows)
    assert not any(secret.encode() in path.read_bytes() for path in file.parent.iterdir())


def test_a_revoked_key_is_good_for_nothing_and_its_name_is_free_again(store: KeyStore) -> None:
    secret, made = store.create("studio")
    with pytest.raises(KeyNameTaken, match="studio"):
        store.create("studio")
    assert store.revoke("studio").id == made.id
    assert store.find(secret) is None
    assert store.still_active({made.id}) == set()
    with pytest.raises(UnknownKey, match="keys list"):
        store.revoke(made.id)
    store.create("studio")


def test_a_key_ends_when_its_time_is_over(store: KeyStore, clock: Clock) -> None:
    secret, made = store.create("studio", expires_at=clock.now + 60)
    assert (made.state(clock.now), store.still_active({made.id})) == ("active", {made.id})
    clock.now += 60
    assert store.find(secret) is None
    assert made.state(clock.now) == "expired"
    assert store.still_active({made.id}) == set()


def test_a_server_whose_last_key_was_revoked_has_had_keys(store: KeyStore, file: Path) -> None:
    url = f"sqlite:///{file}"
    assert not store.has_keys()
    assert not any_keys(url, file)
    store.create("studio")
    store.revoke("studio")
    assert store.has_keys()
    assert any_keys(url, file)


def test_looking_for_keys_lays_no_database(tmp_path: Path) -> None:
    file = tmp_path / "none" / "server.db"
    assert not any_keys(f"sqlite:///{file}", file)
    assert list(tmp_path.iterdir()) == []
