"""Work and traffic of a cascade's stages, counted from its preset alone.

FLOPs are those of matrix products, attention and convolutions (a multiplication and an addition count two). Bytes are
what has to cross the memory bus if every stage keeps only registers and shared memory: weights once a call, cached keys
and values once a call, and what one operator hands to the next.

Letters: E model width, L query tokens, M key tokens, X text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.models.dit import CausalDiT, DiTConfig
from ultraflash.models.patch_autoencoder import PatchConfig, PatchDecoder
from ultraflash.models.preset import Preset, Size
from ultraflash.models.refinement import SuperResolutionConfig
from ultraflash.models.tiny_decoder import TinyDecoder
from ultraflash.models.upsampler import LatentUpsampler

HANDED_ON = 14
"""Tensors of (L, E) that a transformer block writes and reads again, with fused norms, modulation and gates: the
normed input, q, k, v, the attention's output and the stream, for self- and cross-attention, and those of the MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """FLOPs and bytes."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(flops=self.flops + other.flops, bytes=self.bytes + other.bytes)

    def __mul__(self, times: float) -> Cost:
        return Cost(flops=self.flops * times, bytes=self.bytes * times)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """A stage's cost of one group, and of one frame of it."""

    name: str
    group: Cost
    frames: int

    @property
    def frame(self) -> Cost:
        """Per pixel frame."""
        return self.group * (1 / self.frames)


def dit_flops(dit: DiTConfig, *, tokens: int, attention: float) -> float:
    """FLOPs of one pass over ``tokens``; ``attention`` is what self-attention takes in a layer."""
    width = dit.dim
    patch = 2 * tokens * width * math.prod(dit.patch) * (dit.in_channels + dit.out_channels)
    projections = 2 * tokens * width * (4 * width + 2 * width + 2 * dit.ffn_dim)
    cross = 4 * tokens * dit.text_tokens * width
    return patch + dit.layers * (projections + attention + cross)


def dense_attention_flops(dit: DiTConfig, *, queries: int, keys: int) -> float:
    """FLOPs of one layer's dense attention."""
    return 4.0 * queries * keys * dit.dim


def dit_bytes(dit: DiTConfig, *, tokens: int, cached_tokens: int, width: int) -> float:
    """Bytes of one pass with elements of ``width`` bytes."""
    weights = parameters(lambda: CausalDiT(dit)) * width
    caches = dit.layers * 2 * dit.dim * width * (cached_tokens + dit.text_tokens)
    handed_on = dit.layers * tokens * width * (HANDED_ON * dit.dim + 2 * dit.ffn_dim) * 2
    return weights + caches + handed_on


def parameters(make: Callable[[], nn.Module]) -> int:
    """Parameters of a network, without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


class _Counter(TorchFunctionMode):
    """Counts the linear maps and convolutions that run under it, with elements of ``width`` bytes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.total = Cost()
        self._width = width

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (functional.linear, functional.conv2d):
            x, weight = args[:2]
            flops = 2 * output.numel() * weight[0].numel()
            moved = x.numel() + output.numel() + weight.numel()
            self.total += Cost(flops=flops, bytes=moved * self._width)
        return output


def convolution_cost(call: Callable[[], Any], *, width: int) -> Cost:
    """Cost of the convolutions and linear layers of a call, which is best made on the meta device."""
    with _Counter(width) as counter:
        call()
    return counter.total


def base_cost(preset: Preset, *, width: int) -> Cost:
    """One group of a stream whose window is full: every step of every block, and the pass that commits it."""
    base = preset.base
    rows, cols = base.dit.token_grid(base.rows, base.cols)
    tokens, keys = base.block_frames * rows * cols, base.window_frames * rows * cols
    attention = dense_attention_flops(base.dit, queries=tokens, keys=keys)
    one = Cost(
        flops=dit_flops(base.dit, tokens=tokens, attention=attention),
        bytes=dit_bytes(base.dit, tokens=tokens, cached_tokens=keys, width=width),
    )
    return one * (preset.group_blocks * (len(base.schedule.nominal_steps) + 1))


def sr_grid(sr: SuperResolutionConfig, size: Size, frames: int) -> BlockGrid:
    """Blocks of one SR call over ``frames`` latent frames."""
    rows, cols = sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)
    return BlockGrid(frames=frames, rows=rows, cols=cols, block=sr.block)


def sr_cost(preset: Preset, size: Size, *, width: int) -> Cost:
    """One group of super-resolution with a full cache; sparse attention counts the pairs that its rule keeps."""
    sr = preset.sr
    if sr is None or not size.refine:
        return Cost()
    frames = sr.call_frames or preset.group_frames
    grid = sr_grid(sr, size, frames)
    tokens = frames * grid.frame_tokens
    key_blocks = (sr.cached_blocks + grid.frame_blocks) * grid.spatial_blocks
    seen = min(key_blocks, sr.rule.local_range**2 * (sr.cached_blocks + grid.frame_blocks))
    kept = min(sr.rule.pairs(grid), grid.spatial_blocks * seen)
    attention = 4.0 * grid.frame_blocks * kept * grid.block_tokens**2 * sr.dit.dim
    cached = sr.cached_blocks * grid.spatial_blocks * grid.block_tokens
    one = Cost(
        flops=dit_flops(sr.dit, tokens=tokens, attention=attention),
        bytes=dit_bytes(sr.dit, tokens=tokens, cached_tokens=cached + tokens, width=width),
    )
    return one * (preset.group_frames / frames)


def upsampler_cost(preset: Preset, size: Size, *, width: int) -> Cost:
    """One group of the latent upsampler."""
    if not size.refine:
        return Cost()
    with torch.device("meta"):
        net = LatentUpsampler(preset.upsampler[size.factor])
        latent = torch.empty(1, preset.group_frames, net.config.channels, size.rows, size.cols)
        return convolution_cost(lambda: net(latent, net.init_memory()), width=width)


def decoder_cost(preset: Preset, size: Size, *, width: int) -> Cost:
    """One group of the decoder."""
    rows, cols = size.rows * size.factor, size.cols * size.factor
    with torch.device("meta"):
        net: Any
        if isinstance(preset.decoder, PatchConfig):
            net = PatchDecoder(preset.decoder)
        else:
            net = TinyDecoder(preset.decoder)
        latent = torch.empty(1, preset.group_frames, preset.base.dit.out_channels, rows, cols)
        return convolution_cost(lambda: net(latent, net.init_memory()), width=width)


def stage_costs(preset: Preset, size: Size, *, width: int = 2) -> Iterator[StageCost]:
    """Every stage's cost of one group in a stream's steady state, with elements of ``width`` bytes."""
    frames = 4 * preset.group_frames
    for name, cost in (
        ("base", base_cost(preset, width=width)),
        ("upsample", upsampler_cost(preset, size, width=width)),
        ("sr", sr_cost(preset, size, width=width)),
        ("decode", decoder_cost(preset, size, width=width)),
    ):
        yield StageCost(name=name, group=cost, frames=frames)
