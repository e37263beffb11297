"""Latent upsamplers: base latents to the grid on which super-resolution works.

`LatentUpsampler` (v1) is the one that the official 1K and 2K cascades and `mini` use; `StagedUpsampler` (v3) is laid
out like TAEHV's decoder, without growth in time.

Shape legend: B batch, T latent frames, C channels, H W rows and columns, N = T*B frames in time-major order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import (
    FirstFrame,
    FrameMemory,
    MemoryBlock,
    from_time_major,
    to_time_major,
)
from ultraflash.models.tiny_decoder import ConvShuffle, TimeGrow


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerConfig:
    """Shape of a `LatentUpsampler`. The defaults are those of the official 1K file.

    Attributes:
        channels: of the latents, going in and coming out.
        mid_channels: features of the memory blocks.
        blocks: number of memory blocks.
        factor: growth of height and width.
        first_frame: what the memory of a stream's first frame holds.
    """

    channels: int = 16
    mid_channels: int = 128
    blocks: int = 8
    factor: int = 2
    first_frame: FirstFrame = "replicate"

    def __post_init__(self) -> None:
        if min(self.channels, self.mid_channels) < 1 or self.blocks < 0:
            raise BadConfig("channels must be positive, blocks not negative")
        if self.factor < 1:
            raise BadConfig(f"an upsampler cannot enlarge by {self.factor}", param="factor")


def stage_factors(factor: int) -> tuple[int, ...]:
    """Split a factor into stages: twos first, then what is left, e.g. 6 into (2, 3); 1 is one stage of 1."""
    stages = []
    while factor % 2 == 0:
        stages.append(2)
        factor //= 2
    return (*stages, factor) if factor > 1 or not stages else tuple(stages)


class LatentUpsampler(nn.Module):
    """Convolutions with PixelShuffle up to the target grid, then memory blocks there. Weights only."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self._factors = stage_factors(config.factor)
        widths = [config.channels] + [config.mid_channels] * (len(self._factors) - 1)
        self.pre_shuffle = nn.ModuleList(
            nn.Conv2d(width, config.mid_channels * factor**2, 3, padding=1)
            for width, factor in zip(widths, self._factors, strict=True)
        )
        self.blocks = nn.ModuleList(MemoryBlock(config.mid_channels) for _ in range(config.blocks))
        self.final = nn.Conv2d(config.mid_channels, config.channels, 3, padding=1)

    def init_memory(self) -> FrameMemory:
        """Return the empty memory of a new stream."""
        return FrameMemory(self.config.blocks, self.config.first_frame)

    def forward(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Enlarge the next latent frames of a stream.

        Args:
            latent_BTCHW: T latent frames, unit scale.
            memory: the stream's memory, updated in place.

        Returns:
            (B, T, channels, H*factor, W*factor), dtype of the weights.
        """
        batch = latent_BTCHW.shape[0]
        x_NCHW = to_time_major(latent_BTCHW.to(self.final.weight.dtype))
        for conv, factor in zip(self.pre_shuffle, self._factors, strict=True):
            x_NCHW = functional.pixel_shuffle(conv(x_NCHW), factor)
        x_NCHW = functional.relu(x_NCHW).contiguous(memory_format=torch.channels_last)
        for slot, block in enumerate(self.blocks):
            x_NCHW = block(x_NCHW, memory.delay(slot, x_NCHW, batch))
        return from_time_major(self.final(x_NCHW), batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedUpsamplerConfig:
    """Shape of a `StagedUpsampler`.

    Attributes:
        channels: of the latents, going in and coming out.
        stage_channels: features of each stage.
        blocks_per_stage: memory blocks of each stage.
        stage_factors: growth of height and width behind the blocks of each stage.
        residual: add a direct path, one convolution and PixelShuffle per factor.
        first_frame: what the memory of a stream's first frame holds.
    """

    channels: int = 16
    stage_channels: tuple[int, ...] = (128, 96, 64)
    blocks_per_stage: tuple[int, ...] = (1, 1, 1)
    stage_factors: tuple[int, ...] = (2, 1, 1)
    residual: bool = True
    first_frame: FirstFrame = "replicate"

    def __post_init__(self) -> None:
        stages = len(self.stage_channels)
        if not stages or len(self.stage_factors) != stages or len(self.blocks_per_stage) != stages:
            raise BadConfig("blocks_per_stage and stage_factors must have one entry per stage")
        if (
            min(self.channels, *self.stage_channels, *self.stage_factors) < 1
            or min(self.blocks_per_stage) < 0
        ):
            raise BadConfig("channels and factors must be positive, blocks not negative")


class BlockShuffle(nn.Module):
    """`ConvShuffle` under the name that the v3 files use."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.block = ConvShuffle(channels, factor)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C,H*factor,W*factor)."""
        y_NCHW: Tensor = self.block(x_NCHW)
        return y_NCHW


class StagedUpsampler(nn.Module):
    """Stages of memory blocks, each of which may enlarge, beside one direct path. Weights only."""

    def __init__(self, config: StagedUpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.stage_channels
        layers: list[nn.Module] = [nn.Conv2d(config.channels, widths[0], 3, padding=1), nn.ReLU(inplace=True)]
        for stage, (width, factor) in enumerate(zip(widths, config.stage_factors, strict=True)):
            if stage:
                layers.append(nn.Conv2d(widths[stage - 1], width, 3, padding=1, bias=False))
            layers += [MemoryBlock(width) for _ in range(config.blocks_per_stage[stage])]
            layers.append(BlockShuffle(width, factor) if factor > 1 else nn.Identity())
            layers.append(TimeGrow(width, width, growth=1, enlarge=1))
        layers += [nn.ReLU(inplace=True), nn.Conv2d(widths[-1], config.channels, 3, padding=1)]
        self.net = nn.ModuleList(layers)
        self.skip_up = _direct_path(config) if config.residual else None

    def init_memory(self) -> FrameMemory:
        """Return the empty memory of a new stream."""
        return FrameMemory(sum(self.config.blocks_per_stage), self.config.first_frame)

    def forward(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Like `LatentUpsampler.forward`."""
        batch = latent_BTCHW.shape[0]
        latent_NCHW = to_time_major(latent_BTCHW.to(next(self.parameters()).dtype))
        x_NCHW = latent_NCHW
        slot = 0
        for layer in self.net:
            if isinstance(layer, MemoryBlock):
                x_NCHW = layer(x_NCHW, memory.delay(slot, x_NCHW, batch))
                slot += 1
            elif isinstance(layer, TimeGrow):
                x_NCHW = layer(x_NCHW, batch)
            else:
                x_NCHW = layer(x_NCHW)
        if self.skip_up is not None:
            x_NCHW = x_NCHW + self.skip_up(latent_NCHW)
        return from_time_major(x_NCHW, batch)


def _direct_path(config: StagedUpsamplerConfig) -> nn.Module:
    """Convolutions with PixelShuffle, one per factor above 1, from the latents straight to the target grid."""
    channels = config.channels
    layers: list[nn.Module] = []
    for factor in config.stage_factors:
        if factor > 1:
            layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers) if layers else nn.Conv2d(channels, channels, 3, padding=1)
