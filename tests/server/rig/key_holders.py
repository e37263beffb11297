"""People with API keys, made the way ``ultraflash keys`` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from live_server import LiveServer

from ultraflash.server.keys.records import KeyLimits
from ultraflash.server.keys.store import KeyStore


@dataclass(frozen=True)
class Holder:
    """Somebody with a key."""

    id: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


def store_of(server: LiveServer) -> KeyStore:
    """What ``ultraflash keys`` works on."""
    return KeyStore.open(f"sqlite:///{server.data / 'ultraflash.db'}")


def make_key(server: LiveServer, name: str, limits: KeyLimits | None = None) -> Holder:
    store = store_of(server)
    try:
        secret, key = store.create(name, limits=limits)
    finally:
        store.close()
    return Holder(key.id, secret)


def revoke_key(server: LiveServer, holder: Holder) -> None:
    store = store_of(server)
    try:
        store.revoke(holder.id)
    finally:
        store.close()
