"""A server that is to be closed from its first start makes a key, and puts it where its operator finds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from ultraflash.server.errors import DataUnusable
from ultraflash.server.keys.first_key import make_first_key
from ultraflash.server.keys.store import KeyStore

if TYPE_CHECKING:
    from live_server import LiveServer


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'server.db'}"


def keys(url: str) -> list[str]:
    store = KeyStore.open(url)
    try:
        return [key.name for key in store.all_keys()]
    finally:
        store.close()


def test_a_server_wants_the_key_that_it_has_made_and_makes_no_second_one(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    file = tmp_path / "keys" / "first-key"
    server = start_server(keys__first_file=file)
    server.wait_until_ready()
    secret = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(file) in server.output()
    assert server.get("/v1/videos")[0] == 401
    assert server.get("/v1/videos", Authorization=f"Bearer {secret}")[0] == 200
    server.stop()
    assert secret not in server.output()
    # The operator has taken it to where it is safe.
    file.unlink()
    server.start()
    server.wait_until_ready()
    assert not file.exists()
    assert server.get("/v1/videos", Authorization=f"Bearer {secret}")[0] == 200


def test_no_key_is_made_where_everybody_may_come_in(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = start_server("--allow-unauthenticated", keys__first_file=tmp_path / "first-key")
    server.wait_until_ready()
    assert server.get("/v1/videos")[0] == 200
    assert not (tmp_path / "first-key").exists()


def test_revoking_the_first_key_makes_no_other_one(url: str, tmp_path: Path) -> None:
    assert make_first_key(url, tmp_path / "first-key")
    store = KeyStore.open(url)
    store.revoke("first")
    store.close()
    assert not make_first_key(url, tmp_path / "second-key")
    assert keys(url) == ["first"]


def test_a_file_of_an_earlier_database_is_replaced(url: str, tmp_path: Path) -> None:
    file = tmp_path / "first-key"
    file.write_text("a key of old\n")
    file.chmod(0o644)
    assert make_first_key(url, file)
    assert file.read_text().startswith("uf_")
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_key_is_made_that_cannot_be_written(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataUnusable, match="first API key"):
        make_first_key(url, tmp_path / "file" / "first-key")
    assert keys(url) == []


def test_two_servers_that_start_at_once_leave_a_key_that_opens(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "first-key"
    KeyStore.open(url).close()
    both, has_keys = Barrier(2), KeyStore.has_keys

    def seen_by_both(store: KeyStore) -> bool:
        known = has_keys(store)
        both.wait(30)
        return known

    monkeypatch.setattr(KeyStore, "has_keys", seen_by_both)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: make_first_key(url, file), range(2)))
    assert sorted(made) == [False, True]
    assert keys(url) == ["first"]
    store = KeyStore.open(url)
    assert store.find(file.read_text().strip()) is not None
    store.close()
    assert [one.name for one in tmp_path.glob("*first-key*")] == ["first-key"]


def test_a_key_that_could_not_be_written_is_not_there_and_is_made_by_the_next_start(
    url: str, tmp_path: Path
) -> None:
    file = tmp_path / "first-key"
    (file / "something").mkdir(parents=True)
    with pytest.raises(DataUnusable, match="first API key"):
        make_first_key(url, file)
    assert keys(url) == []
    assert list(tmp_path.glob(".first-key*")) == []
    (file / "something").rmdir()
    file.rmdir()
    assert make_first_key(url, file)
    assert file.read_text().startswith("uf_")
