"""Going over from the newest frame to what follows it, so that another scene does not come as a jump.

A new scene differs from the old one in almost every pixel, and base blocks are made whole: whatever the text does
meanwhile, the picture changes at once when the block is made that shows it. So it is the frames that are mixed.

Shapes: T frames; dots stand for what a layout of frames puts behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Fade:
    """The newest frame of a stream at one size, and a fade in progress, on the CPU."""

    def __init__(self) -> None:
        self._newest: Tensor | None = None
        self._source: Tensor | None = None
        self._frames = 0
        self._done = 0

    @property
    def left(self) -> int:
        """Frames until the fade in progress ends; 0 where there is none."""
        return self._frames - self._done

    def begin(self, frames: int) -> None:
        """Let the next ``frames`` go over from the newest frame in equal steps, the last of them being itself.

        One in progress is left from where it is, and 0 frames only end it. A stream without frames has nothing to fade
        from.
        """
        self._source, self._frames, self._done = self._newest, frames, 0
        if self._newest is None:
            self._frames = 0

    def apply(self, frames_T: Tensor) -> Tensor:
        """The next uint8 frames (T, ...), mixed with the source as far as the fade goes."""
        count = min(self.left, frames_T.shape[0])
        if self._source is not None and count:
            steps = torch.arange(self._done + 1, self._done + count + 1) / self._frames
            weights = steps.view(-1, *[1] * self._source.dim())
            mixed = torch.lerp(self._source.float()[None], frames_T[:count].float(), weights)
            frames_T = torch.cat((mixed.round().to(torch.uint8), frames_T[count:]))
            self._done += count
        if not self.left:
            self._source, self._frames, self._done = None, 0, 0
        self._newest = frames_T[-1].clone()
        return frames_T

    def capture(self) -> dict[str, Tensor]:
        """Everything, without a copy of the frames; nothing before the first frame."""
        if self._newest is None:
            return {}
        progress = torch.tensor([self._frames, self._done])
        source = {} if self._source is None else {"source": self._source}
        return {"newest": self._newest, "progress": progress, **source}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on where :meth:`capture` was called."""
        self._newest, self._source = tensors.get("newest"), tensors.get("source")
        self._frames, self._done = tensors["progress"].tolist() if self._newest is not None else (0, 0)
