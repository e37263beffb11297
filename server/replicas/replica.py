"""What is known of one replica."""

from __future__ import annotations

from dataclasses import dataclass

from ultraflash.server.replicas.state import ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One life of a replica: its number, which a later life has too, and ``host:port``."""

    number: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A replica and what it has just said; None where it did not answer."""

    replica: Replica
    state: ReplicaState | None

    @property
    def ready(self) -> bool:
        """Whether streams can be started there."""
        return self.state is not None and self.state.ready
