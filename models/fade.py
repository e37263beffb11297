"""Going over from the newest frame to what follows it, so that another scene does not come as a jump.

A new scene differs from the old one in almost every pixel, and base blocks are made whole: whatever the text does
meanwhile, the picture changes at once when the block is made that shows it. So it is the frames that are mixed.

Shapes: T frames, H W rows and columns of pixels, N planes; dots stand for what a layout of frames puts behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.kernels.pixels import PixelLayout
from ultraflash.models.patch_autoencoder import PATCH_FRAMES

_FIRST_STEP = 0.4
"""Step of a fade to the first picture of a latent frame, where 1 is the mean: decoded pictures themselves change most
there, and the two changes add up to what is seen as a jump."""


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

    @property
    def to_come(self) -> int:
        """Frames of a fade of which none has been shown; 0 where there is no such."""
        return self._frames if self._done == 0 else 0

    def begin(self, frames: int) -> None:
        """Let the next ``frames`` go over from the newest frame, step by step, the last of them being itself.

        Steps to the first picture of a latent frame are shorter than the others, see :func:`share`.
        One in progress is left from where it is, and 0 frames only end it. A stream without frames has nothing to fade
        from.
        """
        self._source, self._frames, self._done = self._newest, frames, 0
        if self._newest is None:
            self._frames = 0

    def apply(self, frames_T: Tensor) -> Tensor:
        """The next uint8 frames (T, ...), mixed with the source as far as the fade goes. One that a server of another
        layout of pixels began is cut short."""
        if self._source is not None and self._source.shape != frames_T.shape[1:]:
            self._frames = self._done
        count = min(self.left, frames_T.shape[0])
        if self._source is not None and count:
            source = self._source.float()
            # One by one: a whole group in float32 is gigabytes at 2K.
            mixed = [
                torch.lerp(source, frame.float(), share(self._done + i, self._frames))
                .round_()
                .to(torch.uint8)
                for i, frame in enumerate(frames_T[:count], start=1)
            ]
            frames_T = torch.cat((torch.stack(mixed), frames_T[count:]))
            self._done += count
        if not self.left:
            self._source, self._frames, self._done = None, 0, 0
        self._newest = frames_T[-1].clone()
        return frames_T

    def go_on_from(self, other: Fade, layout: PixelLayout) -> None:
        """Take over what is left of the fade of another size, from the frame that it has shown last, enlarged.

        This one must have seen a frame of its size.
        """
        if other.left and other._newest is not None and self._newest is not None:
            self._newest = resized(other._newest, self._newest.shape, layout)
            self.begin(other.left)

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


def share(done: int, frames: int) -> float:
    """How far a fade of so many frames is after ``done`` of them, 1 or more: in (0, 1]. It begins with a latent
    frame."""
    if done >= frames:
        return 1.0
    latents, after_first = divmod(done - 1, PATCH_FRAMES)
    other_step = (PATCH_FRAMES - _FIRST_STEP) / (PATCH_FRAMES - 1)
    return (latents * PATCH_FRAMES + _FIRST_STEP + after_first * other_step) / frames


def resized(frame: Tensor, shape: torch.Size, layout: PixelLayout) -> Tensor:
    """A uint8 frame at the size of another of the same layout, bilinearly: (H, W, 3), or (3H/2, W) of planes."""
    if layout == "rgb":
        return _enlarged(frame.movedim(-1, 0), shape[0], shape[1]).movedim(0, -1).contiguous()
    (rows, width), (new_rows, new_width) = frame.shape, shape
    height, new_height = rows * 2 // 3, new_rows * 2 // 3
    luma = _enlarged(frame[None, :height], new_height, new_width)
    pairs = frame[height:].reshape(-1)
    chroma_NHW = (
        pairs.view(2, height // 2, width // 2)
        if layout == "yuv420p"
        else pairs.view(height // 2, width // 2, 2).movedim(-1, 0)
    )
    chroma_NHW = _enlarged(chroma_NHW, new_height // 2, new_width // 2)
    chroma = chroma_NHW if layout == "yuv420p" else chroma_NHW.movedim(0, -1)
    return torch.cat((luma.reshape(-1), chroma.reshape(-1))).view(new_rows, new_width)


def _enlarged(planes_NHW: Tensor, height: int, width: int) -> Tensor:
    made = functional.interpolate(planes_NHW.float()[None], (height, width), mode="bilinear", antialias=True)
    return made[0].round_().clamp_(0, 255).to(torch.uint8)
