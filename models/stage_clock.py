"""How long the stages of a stream take, by the time of the device that works on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ultraflash.models.device import Instant, instant


class StageClock:
    """Seconds of stages, read without waiting for the device.

    A GPU works behind the calls that feed it. What it has not come to when the clock is read is counted at a later
    reading, so that nothing stands still for a measurement, and sums over many readings are right.

    Args:
        device: which works on the stages.
        mark: makes the instants between which they lie.
    """

    def __init__(self, device: torch.device, mark: Callable[[torch.device], Instant] = instant) -> None:
        self._device = device
        self._mark = mark
        self._unread: list[tuple[str, Instant, Instant]] = []

    @contextmanager
    def measure(self, stage: str, *, on_host: bool = False) -> Iterator[None]:
        """Count the time of the block to ``stage``.

        Args:
            stage: its name.
            on_host: the block ends with a result on the host, for which the device has done all before it: its end
                can be waited for, and so is not left to a later reading.
        """
        start = self._mark(self._device)
        try:
            yield
        finally:
            end = self._mark(self._device)
            if on_host:
                end.wait()
            self._unread.append((stage, start, end))

    def read(self) -> dict[str, float]:
        """Seconds by stage of what has passed and was in no reading before."""
        seconds: dict[str, float] = {}
        waiting = []
        for stage, start, end in self._unread:
            if start.passed() and end.passed():
                seconds[stage] = seconds.get(stage, 0.0) + start.seconds_until(end)
            else:
                waiting.append((stage, start, end))
        self._unread = waiting
        return seconds
