"""A preset's networks at their full size with weights that are drawn, for timing where the real ones are not at hand.

Operations and shapes are those of the real cascade, and the pictures mean nothing. Prompts become drawn text states as
well, so the text encoder's time and memory are left out.

Shape legend: X text tokens, W text width.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade, video_layout
from ultraflash.models.device import fastest_dtype
from ultraflash.models.dit import CausalDiT
from ultraflash.models.loading import build_decoder
from ultraflash.models.preset import Preset
from ultraflash.models.upsampler import LatentUpsampler

SEED = 0


class DrawnText:
    """A text encoder of any shape (X, W); a prompt has as many tokens as words, and always the same states."""

    def __init__(self, tokens: int, width: int) -> None:
        self.tokens, self.width = tokens, width

    def check(self, prompt: str) -> None:
        """Every prompt will do: what is longer is cut off."""

    def encode(self, prompt: str) -> Tensor:
        """float32 (X, W) on the CPU, zeros behind the prompt's words."""
        states_XW = torch.zeros(self.tokens, self.width)
        words = min(self.tokens, len(prompt.split()))
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        states_XW[:words] = torch.randn(words, self.width, generator=generator)
        return states_XW


def drawn_cascade(preset: Preset, *, device: str) -> Cascade:
    """A warm cascade of a preset with drawn weights, for video as `Cascade.load_for_video` has it."""
    where = torch.device(device)
    torch.manual_seed(SEED)
    # Drawn where they are wanted: a CPU takes a minute for what a GPU draws in a moment.
    with where:
        base = CausalDiT(preset.base.dit)
        sr = {part: CausalDiT(preset.sr.dit) for part in preset.sr_parts}
        upsamplers = {factor: LatentUpsampler(config) for factor, config in preset.upsampler.items()}
        decoder = build_decoder(preset)
    cascade = Cascade(
        preset,
        text=DrawnText(preset.text.tokens, preset.text.width),
        base=base,
        upsamplers=upsamplers,
        sr=sr,
        decoder=decoder,
        device=where,
        dtype=fastest_dtype(where),
        layout=video_layout(preset, where),
    )
    cascade.warm_up()
    return cascade
