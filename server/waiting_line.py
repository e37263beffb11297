"""Clients that wait for a place: first come, first served."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ultraflash.server.admission import Claim
from ultraflash.server.errors import Busy
from ultraflash.server.protocol import QueueStatus

# Expected waits are told in steps, so that not every second brings a message.
ETA_STEP_S = 5


@dataclass(slots=True, kw_only=True, eq=False)
class Applicant:
    """One who waits.

    Attributes:
        claim: what the stream will ask of the machine.
        begin: starts the session.
        tell: tells the client where it stands.
        told: what it was told last.
    """

    claim: Claim
    begin: Callable[[], None]
    tell: Callable[[QueueStatus], None]
    told: QueueStatus | None = None


class WaitingLine:
    """The line before a door.

    Args:
        fits: whether a stream may begin now.
        eta: seconds until so many places are free, where that can be said.
        max_waiting: clients at most.
        retry_after_s: the shortest time after which a client that finds no place in the line may try again.
    """

    def __init__(
        self,
        *,
        fits: Callable[[Claim], bool],
        eta: Callable[[int], float | None],
        max_waiting: int,
        retry_after_s: int,
    ) -> None:
        self._fits = fits
        self._eta = eta
        self._max_waiting = max_waiting
        self._retry_after_s = retry_after_s
        self._waiting: list[Applicant] = []
        self._reviewing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, applicant: Applicant) -> None:
        """Lets a client in, at once or later. Raises ``Busy`` where the line is full."""
        if not self._waiting and self._fits(applicant.claim):
            applicant.begin()
            return
        if len(self._waiting) >= self._max_waiting:
            eta_s = self._eta(len(self._waiting) + 1)
            raise Busy(
                f"The machine is taken, and {len(self._waiting)} clients wait already; try again later.",
                retry_after_s=max(self._retry_after_s, math.ceil(eta_s or 0.0)),
            )
        self._waiting.append(applicant)
        self.review()

    def leave(self, applicant: Applicant) -> None:
        """A client does not want to wait any longer."""
        if applicant in self._waiting:
            self._waiting.remove(applicant)
            self.review()

    def close(self) -> None:
        """Nobody gets a place any more."""
        self._waiting.clear()
        self._max_waiting = 0

    def review(self) -> None:
        """Lets in whoever has a place now, and tells the others where they stand if that has changed."""
        if self._reviewing:
            return
        self._reviewing = True
        try:
            while self._waiting and self._fits(self._waiting[0].claim):
                self._waiting.pop(0).begin()
        finally:
            self._reviewing = False
        for place, applicant in enumerate(self._waiting):
            self._tell(applicant, place + 1)

    def _tell(self, applicant: Applicant, position: int) -> None:
        eta_s = self._eta(position)
        if eta_s is not None:
            eta_s = float(math.ceil(eta_s / ETA_STEP_S) * ETA_STEP_S)
        status = QueueStatus(position=position, depth=len(self._waiting), eta_s=eta_s)
        if status != applicant.told:
            applicant.told = status
            applicant.tell(status)
