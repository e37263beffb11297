"""One-frame memory of causal convolution stacks: the block that reads it and the object that holds it.

Shape legend: B batch, T frames, C channels, H W rows and columns, N = T*B frames in time-major order
(frame t of sample b is row t*B + b, so that "one frame earlier" is a shift by B rows).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

FirstFrame = Literal["zeros", "replicate"]


class FrameMemory:
    """The last frame that each memory block of one network has seen, for one stream.

    Networks hold weights only; a stream owns one of these per network and passes it to every call. Buffers are
    allocated at a stream's first frame and overwritten in place from then on.
    """

    def __init__(self, slots: int, first_frame: FirstFrame) -> None:
        """Start empty.

        Args:
            slots: frames to keep: one for each part of the network that looks back.
            first_frame: what a stream's first frame sees as the one before: zeros, or itself.
        """
        self._last_BCHW: list[Tensor | None] = [None] * slots
        self._first_frame = first_frame

    def delay(self, slot: int, x_NCHW: Tensor, batch: int) -> Tensor:
        """Return the features one frame earlier and keep the newest frame for the next call.

        Args:
            slot: index of the memory block.
            x_NCHW: its input, time-major, any floating dtype.
            batch: number of samples B that divides N.

        Returns:
            Tensor like ``x_NCHW``, row t holding frame t-1.

        Raises:
            ValueError: the frames changed batch, channels or size since the last call without a ``reset``.
        """
        last_BCHW = self._last_BCHW[slot]
        if last_BCHW is None:
            first_BCHW = x_NCHW[:batch].detach()
            first_BCHW = first_BCHW if self._first_frame == "replicate" else torch.zeros_like(first_BCHW)
            last_BCHW = first_BCHW.clone(memory_format=torch.preserve_format)
            self._last_BCHW[slot] = last_BCHW
            if self._first_frame == "replicate":
                first_BCHW = x_NCHW[:batch]
        elif last_BCHW.shape != x_NCHW[:batch].shape:
            raise ValueError(
                f"the memory holds frames of shape {tuple(last_BCHW.shape)}, got {tuple(x_NCHW[:batch].shape)}; "
                "call reset() when a stream changes its size"
            )
        else:
            first_BCHW = last_BCHW
        past_NCHW = torch.cat([first_BCHW, x_NCHW[:-batch]])
        last_BCHW.copy_(x_NCHW[-batch:].detach())
        return past_NCHW

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; 0 before the first frame."""
        return sum(last.numel() * last.element_size() for last in self._last_BCHW if last is not None)

    def reset(self) -> None:
        """Forget the stream: the next frame is a first frame again, of any size."""
        self._last_BCHW = [None] * len(self._last_BCHW)

    def capture(self) -> dict[str, Tensor]:
        """The buffers by slot, without a copy; nothing before the first frame."""
        return {str(slot): last for slot, last in enumerate(self._last_BCHW) if last is not None}

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Go on where :meth:`capture` was called.

        The buffers take the layout that the networks compute in: in another one their sums could round differently.
        """
        for slot in range(len(self._last_BCHW)):
            kept = tensors.get(str(slot))
            self._last_BCHW[slot] = (
                None
                if kept is None
                else torch.empty_like(kept, device=device, memory_format=torch.channels_last).copy_(kept)
            )

    def to(self, device: torch.device) -> None:
        """Move the buffers."""
        self._last_BCHW = [None if last is None else last.to(device) for last in self._last_BCHW]


class MemoryBlock(nn.Module):
    """Residual block that sees the current frame's features and those of the frame before at its own input.

    Three 3x3 convolutions with ReLU between, a skip, ReLU (TAEHV's block; also the latent upsampler's).
    """

    def __init__(self, channels: int, *, zero_init: bool = False) -> None:
        """Build the block.

        Args:
            channels: features in and out.
            zero_init: start the last convolution at zero, so that the block starts as the identity.
        """
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        if zero_init:
            last = self.conv[-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x_NCHW: Tensor, past_NCHW: Tensor) -> Tensor:
        """Map (N,C,H,W) and the same one frame earlier to (N,C,H,W)."""
        y_NCHW: Tensor = self.conv(torch.cat([x_NCHW, past_NCHW], dim=1))
        return functional.relu_(y_NCHW.add_(x_NCHW))


def to_time_major(x_BTCHW: Tensor) -> Tensor:
    """Flatten (B,T,C,H,W) to (T*B,C,H,W), channels last, the layout in which convolutions run fastest."""
    x_NCHW = x_BTCHW.transpose(0, 1).flatten(0, 1)
    return x_NCHW.contiguous(memory_format=torch.channels_last)


def from_time_major(x_NCHW: Tensor, batch: int) -> Tensor:
    """Undo `to_time_major`: (T*B,C,H,W) to (B,T,C,H,W)."""
    return x_NCHW.unflatten(0, (-1, batch)).transpose(0, 1)
