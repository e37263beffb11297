"""Pairs of latents of one scene with its prompt, drawn at full size and shrunk, for super-resolution.

Shapes: B batch, T pixel frames, C channels, F latent frames, H W rows and columns, L text tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import Preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.training.patches import load_encoder, to_pixels
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene

LATEST_START_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Low- and high-resolution latents of the same windows, and their prompts; ``high`` is ``factor`` times larger."""

    low_BCFHW: Tensor
    high_BCFHW: Tensor
    text_BLD: Tensor
    factor: int


class PairSource:
    """Draws windows of scenes at the sizes of a preset.

    Args:
        preset: whose sizes to draw.
        weights: folder with the encoder.
        frames: latent frames of a clip.
        rows, cols: low-resolution latents of a window.
        batch_size: clips of a batch, all of one factor.
        seed: of everything drawn.

    Raises:
        BadConfig: the window does not fit a size of the preset.
    """

    def __init__(
        self, preset: Preset, weights: Path, *, frames: int, rows: int, cols: int, batch_size: int, seed: int
    ) -> None:
        self._preset, self._frames, self._rows, self._cols = preset, frames, rows, cols
        self._batch_size, self._seed = batch_size, seed
        self._encoder = load_encoder(preset.decoder, weights)
        self._text = MiniLMEncoder()
        self._sizes = {size.factor: size for size in preset.sizes}
        for size in preset.sizes:
            if not 1 <= rows <= size.rows or not 1 <= cols <= size.cols:
                raise BadConfig(
                    f"a window of {rows}x{cols} does not fit size {size.name} of {size.rows}x{size.cols}",
                    param="rows",
                )

    def batch(self, step: int) -> PairBatch:
        """Training pairs of a step; the factors take turns."""
        factors = sorted(self._sizes)
        return self._draw("train", step, factors[step % len(factors)])

    def held_out(self, index: int, factor: int) -> PairBatch:
        """Pairs of test scenes."""
        return self._draw("test", index, factor)

    def _draw(self, split: str, index: int, factor: int) -> PairBatch:
        clips = [self._clip(split, index * self._batch_size + i, factor) for i in range(self._batch_size)]
        low, high, text = (torch.stack(parts) for parts in zip(*clips, strict=True))
        return PairBatch(low_BCFHW=low, high_BCFHW=high, text_BLD=text, factor=factor)

    @torch.no_grad()
    def _clip(self, split: str, number: int, factor: int) -> tuple[Tensor, Tensor, Tensor]:
        """Low and high latents (C, F, H, W) and text states (L, D) of one window."""
        size = self._sizes[factor]
        generator = counter_generator(self._seed, "pair", split, number)
        scene = sample_scene(counter_seed(self._seed, "pair scene", number), split)
        height, width = size.spatial * factor * self._rows, size.spatial * factor * self._cols
        top, left = (
            size.spatial * int(torch.randint((whole - part) // size.spatial + 1, (), generator=generator))
            for whole, part in ((size.height, height), (size.width, width))
        )
        frames_THWC = render(
            scene,
            frames=4 * self._frames - 3,
            height=size.height,
            width=size.width,
            start_s=LATEST_START_S * float(torch.rand((), generator=generator)),
            crop=(top, left, height, width),
        )
        high = to_pixels(frames_THWC)
        low = functional.avg_pool2d(high, factor)
        text = self._text.encode(caption(scene, counter_seed(self._seed, "pair caption", number)))
        low_latent, high_latent = (self._encoder.encode_clip(x[None])[0].transpose(0, 1) for x in (low, high))
        return low_latent, high_latent, text
