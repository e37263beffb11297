"""A server that is to be closed from its first start makes a key, and puts it where its operator finds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
