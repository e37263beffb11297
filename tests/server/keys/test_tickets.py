"""Tickets: for one path, for a while, and not without number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ultraflash.server.errors import Unauthorized
from ultraflash.server.keys import tickets as module
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.records import Caller, KeyLimits
from ultraflash.server.keys.store import KeyStore
from ultraflash.server.keys.tickets import Tickets

PATH = "/v1/videos/video_1/content"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    store = KeyStore.open(f"sqlite:///{tmp_path / 'server.db'}")
    yield store
    store.close()


@pytest.fixture
def holder(store: KeyStore) -> Caller:
    _, key = store.create("studio")
    return Caller(key_id=key.id, limits=KeyLimits())


@pytest.fixture
def tickets(store: KeyStore, clock: Clock) -> Tickets:
    keyring = Keyring(store, required=True, defaults=KeyLimits())
    return Tickets(keyring, lifetime_s=60, clock=clock)


async def test_a_ticket_is_worth_nothing_when_its_time_is_over(
    tickets: Tickets, holder: Caller, clock: Clock
) -> None:
    text, ticket = tickets.issue(PATH, holder)
    assert ticket.expires_at == clock.now + 60
    clock.now += 59.9
    assert await tickets.redeem(text, PATH) == holder
    clock.now += 0.1
    with pytest.raises(Unauthorized, match="its time is over"):
        await tickets.redeem(text, PATH)


async def test_beyond_a_number_the_oldest_ticket_gives_way(
    tickets: Tickets, holder: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TICKETS", 2)
    first, second, third = (tickets.issue(PATH, holder)[0] for _ in range(3))
    with pytest.raises(Unauthorized):
        await tickets.redeem(first, PATH)
    for text in (second, third):
        assert await tickets.redeem(text, PATH) == holder
