"""A cascade of small networks with drawn weights: the code paths of the shipped one in a fraction of the time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tiny_official import tiny_official_preset
from torch import nn

from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import CausalDiT
from ultraflash.models.loading import build_decoder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.upsampler import LatentUpsampler


def small_preset() -> Preset:
    """Two blocks a group, a window of three blocks, three cached temporal blocks, two sizes, and noise for
    super-resolution, as the official networks want it."""
    preset = load_preset("mini")
    dit = replace(
        preset.base.dit, dim=48, ffn_dim=64, layers=2, heads=2, position_grid=None, text_summary=False
    )
    sizes = (
        replace(preset.sizes[0], rows=6, cols=8, factor=2),
        replace(preset.sizes[1], rows=4, cols=6, factor=4),
    )
    steps = replace(preset.base.schedule, nominal_steps=(1000, 750, 500, 250), shift=5.0)
    return replace(
        preset,
        base=replace(preset.base, dit=dit, rows=6, cols=8, block_frames=2, window_frames=6, schedule=steps),
        sr=replace(
            preset.sr,
            dit=replace(dit, in_channels=64, mend_seams=False),
            noise=True,
            rule=replace(preset.sr.rule, ref_spatial_tokens=None),
            block=(1, 4, 4),
            cached_blocks=3,
            group_blocks=2,
        ),
        sizes=sizes,
    )


def small_long_preset() -> Preset:
    """The official layout on the text encoder of `mini`: a sink, a single first frame, a size that is not refined, and
    super-resolution in calls of two frames."""
    preset = tiny_official_preset()
    text = TextConfig()
    dit = replace(preset.base.dit, text_tokens=text.tokens, text_dim=text.width)
    assert preset.sr is not None
    return replace(
        preset,
        text=text,
        base=replace(preset.base, dit=dit, window_frames=9, sink_frames=3, independent_first_frame=True),
        sr=replace(preset.sr, dit=replace(dit, in_channels=preset.sr.dit.in_channels)),
    )


def drawn(net: nn.Module, seed: int) -> Any:
    """Weights that keep activations alive: the zeros that training starts from would hide every mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        scale = 0.5 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.05
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1) * 0.5
        )
    return net


def small_cascade(
    preset: Preset, text: MiniLMEncoder, *, seed: int = 5, dtype: torch.dtype = torch.float32
) -> Cascade:
    """A fresh cascade of a preset, with weights that depend on ``seed`` alone."""
    return Cascade(
        preset,
        text=text,
        base=drawn(CausalDiT(preset.base.dit), seed),
        upsamplers={f: drawn(LatentUpsampler(config), seed) for f, config in preset.upsampler.items()},
        sr={part: drawn(CausalDiT(preset.sr.dit), seed + i) for i, part in enumerate(preset.sr_parts)},
        decoder=drawn(build_decoder(preset), seed),
        device=torch.device("cpu"),
        dtype=dtype,
    )
