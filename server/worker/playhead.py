"""How far a stream may run ahead of what its owner has seen, and when a silent owner is given up."""

from __future__ import annotations

from dataclasses import dataclass

_ROUNDING_US = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingRule:
    """Limits that hold for every live stream.

    Attributes:
        ahead_us: media generated at most beyond the playhead.
        ack_pause_s: silence after which the stream rests.
        ack_end_s: silence after which it ends.
        paused_end_s: longest pause by the owner.
    """

    ahead_us: float
    ack_pause_s: float
    ack_end_s: float
    paused_end_s: float


class Playhead:
    """What the owner of one stream has seen, by its acknowledgements. Times are seconds of any one clock."""

    def __init__(self, rule: PacingRule, *, now: float, playhead_us: float, sent_us: float) -> None:
        self._rule = rule
        self._playhead_us = playhead_us
        self._seen_at = now
        self._heard_at = now
        self._sent_us = sent_us
        self._paused_at: float | None = None

    @property
    def ahead_us(self) -> float:
        """Media sent beyond the playhead."""
        return self._sent_us - self._playhead_us

    @property
    def paused(self) -> bool:
        """Whether the owner has paused the stream."""
        return self._paused_at is not None

    def ack(self, seen_us: float, now: float) -> None:
        """The owner has seen all media up to ``seen_us``. An older acknowledgement only says that it is alive."""
        self._heard_at = now
        if seen_us > self._playhead_us:
            self._playhead_us = min(seen_us, self._sent_us)
            self._seen_at = now

    def sent(self, end_us: float, now: float) -> None:
        """Media up to ``end_us`` has gone out; waiting for an answer starts anew."""
        self._sent_us = end_us
        self._heard_at = now

    def set_paused(self, paused: bool, now: float) -> None:
        """Pauses or goes on."""
        if paused != self.paused:
            self._paused_at = now if paused else None
        self._heard_at = now

    def may_generate(self, group_us: float, now: float) -> bool:
        """Whether a group of ``group_us`` may start.

        The group has to end within the limit; one that is longer than the limit may start once everything
        before it but a frame or so has been seen.
        """
        if self.paused or self._silence(now) > self._rule.ack_pause_s:
            return False
        return self.ahead_us + group_us <= max(self._rule.ahead_us, group_us + group_us / 4)

    def deadline(self) -> float:
        """When the owner runs out of media, if it plays without a stop."""
        return self._seen_at + self.ahead_us / 1e6

    def over(self, now: float) -> str | None:
        """Why the stream has to end now, if it has to: ``no_ack`` or ``paused_too_long``."""
        if self._paused_at is not None:
            return "paused_too_long" if now - self._paused_at > self._rule.paused_end_s else None
        return "no_ack" if self._silence(now) > self._rule.ack_end_s else None

    def _silence(self, now: float) -> float:
        """Seconds without an answer; none is owed while everything sent has been seen."""
        return now - self._heard_at if self.ahead_us > _ROUNDING_US else 0.0
