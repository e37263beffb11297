"""Whether one more live stream fits what the machine has left, by what frames were measured to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ultraflash.server.settings import StreamSettings
from ultraflash.server.worker.messages import AUTO, WorkerReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a stream that runs, or wants to, asks of the machine.

    Attributes:
        fps: frames per second that it plays.
        size: name of the only size that it may have; None for one that gets by with the smallest.
        frames_left: until its end, where that is known.
    """

    fps: float
    size: str | None
    frames_left: int | None


def claim_of(
    asked_size: str, fps: int | None, frames_left: int | None, *, ready: WorkerReady, limits: StreamSettings
) -> Claim:
    """What a stream with these wishes asks of the machine. Raises ``UnknownSize``."""
    name = None if asked_size == AUTO else ready.size(asked_size).name
    size = None if limits.adapt_named_sizes else name
    return Claim(fps=fps or ready.fps, size=size, frames_left=frames_left)


class Admission:
    """The rule. A stream is accepted when what all of them need in real time, at the least, is there.

    The first stream is always accepted: on a machine that is too slow for real time it is shown as fast as it can be
    made, which its ``stats`` say.
    """

    def __init__(self, limits: StreamSettings) -> None:
        self._limits = limits

    def fits(self, claim: Claim, running: Sequence[Claim], frame_seconds: Mapping[str, float]) -> bool:
        """Whether a stream may begin beside those that run.

        Args:
            claim: of the stream that wants to begin.
            running: of all others.
            frame_seconds: what a frame of each size costs.
        """
        if not running:
            return True
        if len(running) >= self._limits.max_streams:
            return False
        return share_of_time([*running, claim], frame_seconds) <= self._limits.capacity


def share_of_time(claims: Sequence[Claim], frame_seconds: Mapping[str, float]) -> float:
    """Share of the machine's time that streams need in real time, those that adapt at the smallest size."""
    smallest = min(frame_seconds.values(), default=0.0)
    return sum(
        claim.fps * (smallest if claim.size is None else frame_seconds.get(claim.size, smallest))
        for claim in claims
    )


def seconds_until_places(
    places: int, running: Sequence[Claim], *, share: float, mean_length_s: float | None
) -> float | None:
    """When so many of the running streams are expected to be over; None where nothing is known.

    Args:
        places: at least 1; more than there are streams counts on those that come after them.
        running: what they ask for.
        share: of the machine's time that they need; above 1 all take longer than real time.
        mean_length_s: of the sessions so far, which is what one without an announced end is taken to last from now.
    """
    slowness = max(1.0, share)
    left = [
        mean_length_s if claim.frames_left is None else claim.frames_left / claim.fps * slowness
        for claim in running
    ]
    known = sorted(seconds for seconds in left if seconds is not None)
    rounds, place = divmod(places - 1, max(1, len(running)))
    if place >= len(known) or (rounds and mean_length_s is None):
        return None
    return known[place] + rounds * (mean_length_s or 0.0)
