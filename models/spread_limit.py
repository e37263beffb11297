"""Keeping a long stream from enlarging its own contrast.

A generator that goes on from what it has made draws what is strong in it a little stronger in every block, until the
picture is stripes. How far the values of a channel spread in the first blocks of a scene is a measure of how far they
should in the later ones.

Shapes: B batch (1), C channels, F latent frames, H W rows and columns. Latents have unit variance over all videos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

FIRST_BLOCKS = 2
"""Blocks of a stream that show its spread."""

CHANGE_BLOCKS = 6
"""Blocks after a change of prompt in which one scene becomes another, which may spread wider."""

_ALL_BUT_CHANNELS = (0, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is known of the spread of one stream. A new one is made for every block.

    Attributes:
        usual_C: standard deviation of every channel in the present scene, float32; None before the first block.
        settling: blocks to come that tell more of it.
    """

    usual_C: Tensor | None = None
    settling: int = FIRST_BLOCKS

    def scene_changes(self) -> Spread:
        """With the next block another scene begins to show."""
        return replace(self, settling=CHANGE_BLOCKS if self.usual_C is not None else FIRST_BLOCKS)

    def seen(self, latent_BCFHW: Tensor) -> Spread:
        """After a block that is shown as it is."""
        if self.settling == 0:
            return self
        now_C = _spread(latent_BCFHW)
        usual_C = now_C if self.usual_C is None else (self.usual_C + now_C) / 2
        return Spread(usual_C=usual_C, settling=self.settling - 1)

    def to(self, device: torch.device) -> Spread:
        """The same on a device."""
        return self if self.usual_C is None else replace(self, usual_C=self.usual_C.to(device))


def limit_spread(latent_BCFHW: Tensor, spread: Spread, limit: float) -> tuple[Tensor, Spread]:
    """A block with every channel's spread limited, and what is known after it.

    Args:
        latent_BCFHW: clean latents of a block.
        spread: of the blocks before it.
        limit: how many times as far as usual a channel may spread. While a scene changes, it may spread as far as it
            usually has or as all videos together do, whichever is more.
    """
    if spread.usual_C is None:
        return latent_BCFHW, spread.seen(latent_BCFHW)
    most_C = spread.usual_C.clamp_min(1.0) if spread.settling else limit * spread.usual_C
    # Never more than it is, and without a division by zero.
    share_C = (most_C / _spread(latent_BCFHW).clamp_min(1e-6)).clamp_max(1.0)
    mean_BCFHW = latent_BCFHW.mean(_ALL_BUT_CHANNELS, keepdim=True)
    limited_BCFHW = mean_BCFHW + share_C.view(1, -1, 1, 1, 1) * (latent_BCFHW - mean_BCFHW)
    return limited_BCFHW, spread.seen(limited_BCFHW)


def _spread(latent_BCFHW: Tensor) -> Tensor:
    return latent_BCFHW.float().std(_ALL_BUT_CHANNELS)
