"""What differs from device to device: which one there is, what it computes in, and its time."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Protocol

import torch


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products run faster in it, else float32."""
    if device.type == "cpu":
        # Builds without oneDNN, such as those for Apple's processors, don't even have the question.
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16


class Instant(Protocol):
    """A point in the work of a device."""

    def passed(self) -> bool:
        """Whether the device has come to it. Does not wait for that."""

    def wait(self) -> None:
        """Wait until the device has come to it."""

    def seconds_until(self, later: Any) -> float:
        """Seconds to a later instant of the same device; both have passed."""


def instant(device: torch.device) -> Instant:
    """The end of the work that a device has been given so far; on a GPU, that of its current stream."""
    return _GpuInstant(device) if device.type == "cuda" else _HostInstant()


class _HostInstant:
    """A CPU has done its work when the call returns."""

    def __init__(self) -> None:
        self._at = perf_counter()

    def passed(self) -> bool:
        return True

    def wait(self) -> None:
        return

    def seconds_until(self, later: _HostInstant) -> float:
        return later._at - self._at


class _GpuInstant:
    """A GPU works behind the calls that feed it, so the point is an event among them."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def passed(self) -> bool:
        return self._event.query()

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_until(self, later: _GpuInstant) -> float:
        return self._event.elapsed_time(later._event) / 1e3
