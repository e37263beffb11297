"""The clean latents of a stream's window, from which its keys and values can be made anew under another prompt.

Shapes: B batch, C channels, F latent frames, H W rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class WindowLatents:
    """The latents of the frames that a ring cache of the same size holds: the sink and the newest ones.

    Args:
        frame_shape: (C, H, W) of a latent frame.
        frames, sink_frames: as of the ring cache.
        device: of the buffer, which is float32, allocated once.
    """

    def __init__(
        self, frame_shape: tuple[int, int, int], *, frames: int, sink_frames: int, device: torch.device
    ) -> None:
        channels, rows, cols = frame_shape
        self._buffer_BCFHW = torch.zeros((1, channels, frames, rows, cols), device=device)
        self._frames = frames
        self._sink = sink_frames
        self._starts: list[int] = []  # first frames of the blocks that are held, also in part
        self._count = 0  # frames seen

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer_BCFHW.numel() * self._buffer_BCFHW.element_size()

    def append(self, latent_BCFHW: Tensor) -> None:
        """Keep the next block of the stream; what leaves the window is forgotten."""
        frames = latent_BCFHW.shape[2]
        self._starts.append(self._count)
        for i in range(frames):
            self._buffer_BCFHW[:, :, self._place(self._count + i)] = latent_BCFHW[:, :, i]
        self._count += frames
        ends = [*self._starts[1:], self._count]
        self._starts = [
            start for start, end in zip(self._starts, ends, strict=True) if self._held(start, end)
        ]

    def blocks(self) -> list[tuple[int, Tensor]]:
        """Every block that is held, in order: its first held frame and its held latents (copies).

        A block that has left the window in part, as one longer than the sink does, is what is left of it.
        """
        ends = [*self._starts[1:], self._count]
        found = []
        for start, end in zip(self._starts, ends, strict=True):
            for run in _runs(self._held(start, end)):
                places = torch.tensor([self._place(i) for i in run], device=self._buffer_BCFHW.device)
                found.append((run[0], self._buffer_BCFHW.index_select(2, places)))
        return found

    def _held(self, start: int, end: int) -> list[int]:
        """Those of the frames ``start`` .. ``end`` that are in the window."""
        oldest = self._count - (self._frames - self._sink)
        return [i for i in range(start, end) if i < self._sink or i >= oldest]

    def _place(self, frame: int) -> int:
        if frame < self._frames:
            return frame
        return self._sink + (frame - self._sink) % (self._frames - self._sink)

    def capture(self) -> tuple[Tensor, dict[str, Any]]:
        """The buffer, without a copy, and what lies where."""
        return self._buffer_BCFHW, {"starts": list(self._starts), "count": self._count}

    def restore(self, buffer_BCFHW: Tensor, starts: list[int], count: int) -> None:
        """Go on where :meth:`capture` was called."""
        self._buffer_BCFHW.copy_(buffer_BCFHW)
        self._starts, self._count = list(starts), count

    def to(self, device: torch.device) -> None:
        """Move the buffer."""
        self._buffer_BCFHW = self._buffer_BCFHW.to(device)


def _runs(frames: list[int]) -> list[list[int]]:
    """Split rising numbers where one is left out."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs
