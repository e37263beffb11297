"""TAEHV's tiny video autoencoder (github.com/madebyollin/taehv), sized by configuration.

`TinyAutoencoder` has the layout of the official files ``tiny_decoder.pth`` and ``ultra_decoder_v3.pth``, so that
they load strictly; `TinyDecoder` is also the residual half of `mini`'s decoder (see `patch_autoencoder`).

Shape legend: B batch, T frames (latent frames going in, pixel frames coming out), C channels, H W rows and columns,
N = T*B frames in time-major order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.kernels.pixels import PixelLayout, pack
from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import (
    FirstFrame,
    FrameMemory,
    MemoryBlock,
    from_time_major,
    to_time_major,
)

Upsampling = Literal["nearest", "pixel_shuffle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape of a `TinyDecoder`. The defaults are those of ``tiny_decoder.pth``.

    Attributes:
        latent_channels: channels of the latents.
        out_channels: channels that come out, before a PixelShuffle tail divides them.
        stage_channels: features of each stage, coarsest first.
        blocks_per_stage: memory blocks of each stage.
        space_growth: factor of height and width from each stage to the next.
        time_growth: factor of the number of frames from each stage to the next.
        tail_time_growth: frames that the last convolution makes out of one.
        tail_shuffle: factor of a PixelShuffle behind the last convolution, 1 for none.
        upsampling: how a stage grows in space: nearest neighbour, or a 3x3 convolution and PixelShuffle.
        first_frame: what the memory of a stream's first frame holds.
        squash: bound the latents by 3*tanh(z/3) first.
        narrow_first: let the 1x1 convolution that grows time go to the next stage's channels already (cheaper;
            not TAEHV's layout).
        zero_init: start every memory block as the identity and the last convolution at zero.
    """

    latent_channels: int = 16
    out_channels: int = 3
    stage_channels: tuple[int, ...] = (256, 128, 64, 64)
    blocks_per_stage: tuple[int, ...] = (3, 3, 3, 0)
    space_growth: tuple[int, ...] = (2, 2, 2)
    time_growth: tuple[int, ...] = (1, 2, 2)
    tail_time_growth: int = 1
    tail_shuffle: int = 1
    upsampling: Upsampling = "nearest"
    first_frame: FirstFrame = "zeros"
    squash: bool = True
    narrow_first: bool = False
    zero_init: bool = False

    def __post_init__(self) -> None:
        stages = len(self.stage_channels)
        if stages == 0 or len(self.blocks_per_stage) != stages:
            raise BadConfig("blocks_per_stage must have one entry per stage")
        if len(self.space_growth) != stages - 1 or len(self.time_growth) != stages - 1:
            raise BadConfig("space_growth and time_growth must have one entry less than there are stages")
        if self.out_channels % self.tail_shuffle**2:
            raise BadConfig(f"tail_shuffle {self.tail_shuffle} does not divide {self.out_channels} channels")
        sizes = (self.latent_channels, *self.stage_channels, *self.space_growth, *self.time_growth)
        if min(*sizes, self.out_channels, self.tail_time_growth, self.tail_shuffle) < 1:
            raise BadConfig("channels and growth factors must be positive")
        if min(self.blocks_per_stage) < 0:
            raise BadConfig("blocks_per_stage must not be negative")

    @property
    def frames_per_latent(self) -> int:
        """Frames that come out for one latent frame."""
        return prod(self.time_growth) * self.tail_time_growth

    @property
    def space_factor(self) -> int:
        """Rows of pixels per row of latents."""
        return prod(self.space_growth) * self.tail_shuffle


ULTRA_DECODER_V3 = DecoderConfig(upsampling="pixel_shuffle", first_frame="replicate")
"""Configuration of ``ultra_decoder_v3.pth``."""


class TimeGrow(nn.Module):
    """1x1 convolution that makes several frames out of one, and the nearest-neighbour enlargement around it.

    Nearest-neighbour enlargement commutes with a 1x1 convolution, so it comes last, where it costs least.
    """

    def __init__(self, in_channels: int, out_channels: int, *, growth: int, enlarge: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels * growth, 1, bias=False)
        self.growth = growth
        self.enlarge = enlarge

    def forward(self, x_NCHW: Tensor, batch: int) -> Tensor:
        """Map (T*B,C,H,W) to (T*growth*B,out_channels,H*enlarge,W*enlarge)."""
        x_NCHW = split_in_time(self.conv(x_NCHW), self.growth, batch)
        if self.enlarge > 1:
            x_NCHW = functional.interpolate(x_NCHW, scale_factor=self.enlarge, mode="nearest")
        return x_NCHW


class ConvShuffle(nn.Sequential):
    """3x3 convolution and PixelShuffle: a learned enlargement."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(nn.Conv2d(channels, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C,H*factor,W*factor), channels last."""
        for layer in self:
            x_NCHW = layer(x_NCHW)
        return x_NCHW.contiguous(memory_format=torch.channels_last)


class ShuffleUp(nn.Module):
    """`ConvShuffle` under the name that ``ultra_decoder_v3.pth`` uses."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.up = ConvShuffle(channels, factor)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C,H*factor,W*factor)."""
        y_NCHW: Tensor = self.up(x_NCHW)
        return y_NCHW


class Squash(nn.Module):
    """Bound latents smoothly: 3*tanh(z/3)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map any shape to the same shape, values in (-3, 3)."""
        return torch.tanh(x_NCHW / 3) * 3


class TinyDecoder(nn.ModuleList):
    """Latents to pixels, frame by frame, each seeing itself and the past through one-frame memories.

    The positions in the sequence are those of the official files. Weights only: a stream's memory is passed in.
    """

    def __init__(self, config: DecoderConfig) -> None:
        stages = list(zip(config.stage_channels, config.blocks_per_stage, strict=True))
        layers: list[nn.Module] = [
            Squash() if config.squash else nn.Identity(),
            nn.Conv2d(config.latent_channels, config.stage_channels[0], 3, padding=1),
            nn.ReLU(inplace=True),
        ]
        for index, (channels, blocks) in enumerate(stages):
            layers += [MemoryBlock(channels, zero_init=config.zero_init) for _ in range(blocks)]
            if index + 1 < len(stages):
                layers += _transition(config, index)
        tail = nn.Conv2d(
            config.stage_channels[-1], config.out_channels * config.tail_time_growth, 3, padding=1
        )
        if config.zero_init:
            for parameter in tail.parameters():
                nn.init.zeros_(parameter)
        # A memory block ends in a ReLU already.
        rectify = nn.Identity() if config.blocks_per_stage[-1] else nn.ReLU(inplace=True)
        super().__init__([*layers, rectify, tail])
        self.config = config

    @property
    def memory_slots(self) -> int:
        """Frames that a stream's memory keeps, one for each memory block."""
        return sum(self.config.blocks_per_stage)

    def init_memory(self) -> FrameMemory:
        """Return the empty memory of a new stream."""
        return FrameMemory(self.memory_slots, self.config.first_frame)

    def forward(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Decode the next latent frames of a stream.

        Args:
            latent_BTCHW: T latent frames, unit scale.
            memory: the stream's memory, updated in place.

        Returns:
            (B, T*frames_per_latent, out_channels/tail_shuffle**2, H*space_factor, W*space_factor), not clamped,
            dtype of the weights. The caller drops the first ``frames_per_latent - 1`` frames of a stream.
        """
        batch = latent_BTCHW.shape[0]
        weight = next(self.parameters())
        x_NCHW = to_time_major(latent_BTCHW.to(weight.dtype))
        slot = 0
        for layer in self:
            if isinstance(layer, MemoryBlock):
                x_NCHW = layer(x_NCHW, memory.delay(slot, x_NCHW, batch))
                slot += 1
            elif isinstance(layer, TimeGrow):
                x_NCHW = layer(x_NCHW, batch)
            else:
                x_NCHW = layer(x_NCHW)
        x_NCHW = split_in_time(x_NCHW, self.config.tail_time_growth, batch)
        if self.config.tail_shuffle > 1:
            x_NCHW = functional.pixel_shuffle(x_NCHW, self.config.tail_shuffle)
        return from_time_major(x_NCHW, batch)

    def decode(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Like `forward`, but float32 pixels clamped to [0, 1]."""
        return self(latent_BTCHW, memory).float().clamp_(0, 1)

    def decode_uint8(self, latent_BTCHW: Tensor, memory: FrameMemory, layout: PixelLayout = "rgb") -> Tensor:
        """Like `forward`, but uint8 frames, rounded: (B,T,H,W,3), or what else ``layout`` says; the way to show them.

        Goes latent frame by latent frame: the features of a whole group at 2K would take gigabytes.
        """
        frames = []
        for one_BTCHW in latent_BTCHW.split(1, dim=1):
            pixels_BTHWC = self(one_BTCHW, memory).permute(0, 1, 3, 4, 2)
            packed = pack(pixels_BTHWC.flatten(0, 1), layout=layout)
            frames.append(packed.unflatten(0, pixels_BTHWC.shape[:2]))
        return torch.cat(frames, dim=1)


def _transition(config: DecoderConfig, index: int) -> list[nn.Module]:
    """Layers between stage ``index`` and the next: enlarge, grow time, change channels."""
    channels, following = config.stage_channels[index : index + 2]
    space, time = config.space_growth[index], config.time_growth[index]
    shuffle = config.upsampling == "pixel_shuffle" and space > 1
    grown = following if config.narrow_first else channels
    return [
        ShuffleUp(channels, space) if shuffle else nn.Identity(),
        TimeGrow(channels, grown, growth=time, enlarge=1 if shuffle else space),
        nn.Conv2d(grown, following, 3, padding=1, bias=False),
    ]


def split_in_time(x_NCHW: Tensor, growth: int, batch: int) -> Tensor:
    """Turn (T*B, growth*C, H, W) into (T*growth*B, C, H, W), time-major and channels last."""
    if growth == 1:
        return x_NCHW
    frames, grown_channels, height, width = x_NCHW.shape
    channels = grown_channels // growth
    x_NHWC = x_NCHW.permute(0, 2, 3, 1).reshape(frames // batch, batch, height, width, growth, channels)
    x_NHWC = x_NHWC.permute(0, 4, 1, 2, 3, 5).reshape(frames * growth, height, width, channels)
    return x_NHWC.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape of a `TinyEncoder`. The defaults are those of both official files.

    Attributes:
        latent_channels: channels of the latents.
        in_channels: channels of the frames.
        channels: features of every stage.
        blocks_per_stage: memory blocks of each stage; every stage halves height and width first.
        time_pooling: frames that each stage merges into one.
        first_frame: what the memory of a stream's first frame holds.
    """

    latent_channels: int = 16
    in_channels: int = 3
    channels: int = 64
    blocks_per_stage: tuple[int, ...] = (3, 3, 3)
    time_pooling: tuple[int, ...] = (2, 2, 1)
    first_frame: FirstFrame = "zeros"

    def __post_init__(self) -> None:
        if len(self.blocks_per_stage) != len(self.time_pooling):
            raise BadConfig("blocks_per_stage and time_pooling must have the same length")

    @property
    def frames_per_latent(self) -> int:
        """Frames that go into one latent frame."""
        return prod(self.time_pooling)


class TimePool(nn.Module):
    """1x1 convolution that makes one frame out of several."""

    def __init__(self, channels: int, pooling: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels * pooling, channels, 1, bias=False)
        self.pooling = pooling

    def forward(self, x_NCHW: Tensor, batch: int) -> Tensor:
        """Map (T*B,C,H,W) to (T/pooling*B,C,H,W)."""
        if self.pooling > 1:
            x_NCHW = (
                x_NCHW.unflatten(0, (-1, self.pooling, batch)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
            )
        y_NCHW: Tensor = self.conv(x_NCHW.contiguous(memory_format=torch.channels_last))
        return y_NCHW


class TinyEncoder(nn.ModuleList):
    """Pixels to latents, the mirror of `TinyDecoder`, with the same kind of memory."""

    def __init__(self, config: EncoderConfig) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(config.in_channels, config.channels, 3, padding=1),
            nn.ReLU(inplace=True),
        ]
        for blocks, pooling in zip(config.blocks_per_stage, config.time_pooling, strict=True):
            layers += [
                TimePool(config.channels, pooling),
                nn.Conv2d(config.channels, config.channels, 3, stride=2, padding=1, bias=False),
                *(MemoryBlock(config.channels) for _ in range(blocks)),
            ]
        super().__init__([*layers, nn.Conv2d(config.channels, config.latent_channels, 3, padding=1)])
        self.config = config

    def init_memory(self) -> FrameMemory:
        """Return the empty memory of a new stream."""
        return FrameMemory(sum(self.config.blocks_per_stage), self.config.first_frame)

    def forward(self, frames_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            frames_BTCHW: pixels in [0, 1]; T a multiple of ``frames_per_latent``, height and width of the space factor.
            memory: the stream's memory, updated in place.

        Returns:
            (B, T/frames_per_latent, latent_channels, H/f, W/f), dtype of the weights, with f = 2**stages.

        Raises:
            ValueError: T is not a multiple of ``frames_per_latent``.
        """
        batch, frames = frames_BTCHW.shape[:2]
        if frames % self.config.frames_per_latent:
            raise ValueError(f"{frames} frames are not a multiple of {self.config.frames_per_latent}")
        x_NCHW = to_time_major(frames_BTCHW.to(next(self.parameters()).dtype))
        slot = 0
        for layer in self:
            if isinstance(layer, MemoryBlock):
                x_NCHW = layer(x_NCHW, memory.delay(slot, x_NCHW, batch))
                slot += 1
            elif isinstance(layer, TimePool):
                x_NCHW = layer(x_NCHW, batch)
            else:
                x_NCHW = layer(x_NCHW)
        return from_time_major(x_NCHW, batch)


class TinyAutoencoder(nn.Module):
    """Encoder and decoder under the names of the official files (``encoder.*``, ``decoder.*``)."""

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = TinyEncoder(encoder)
        self.decoder = TinyDecoder(decoder)
