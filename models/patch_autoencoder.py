"""The autoencoder of `mini`: linear patches that start from a PCA, and beside them a linear map of
neighbours, convolutional residuals, both or neither.

A latent frame stands for 4 pixel frames and 16x16 pixels. The first latent frame of a clip stands for its first
frame alone (three copies are put in front), so n latent frames stand for 4n-3 pixel frames; the decoder emits 4n and
the caller drops the first 3 of a stream.

Shape legend: B batch, T pixel frames, n latent frames, C channels, H W pixel rows and columns, h w latent rows and
columns, P values of a patch, K numbers that it is linear in, R rank of the neighbours' map. A patch is 4 frames of
16x16 pixels, made of tiles of f frames of 4x4 pixels, Q values each; its values are ordered tile frame, tile row, tile
column, then frame, row, column, colour inside the tile. The decoder makes them in raster order, frame, row, column,
colour, which becomes pictures in copies of longer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.kernels.pixels import PixelLayout, pack, quantize
from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import FrameMemory, from_time_major, to_time_major
from ultraflash.models.patch_planes import empty_planes, luma_and_chroma
from ultraflash.models.tiny_decoder import DecoderConfig, TinyDecoder

_PATCH = 16
PATCH_FRAMES = 4
"""Pixel frames that a latent frame stands for."""
UNTRIMMED_FRAMES = PATCH_FRAMES - 1
"""Pixel frames that the decoder makes of a stream's first latent frame beyond the one it stands for."""
_TILE = 4
_AROUND = 3
_COLOURS = 3
_BAND_ROWS = 4
"""Rows of latents whose patches a CPU's caches hold."""
_PATCH_SIZE = PATCH_FRAMES * _PATCH**2 * _COLOURS
# Pixels are kept relative to mid grey, where bfloat16 is finest.
MID_GREY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """Shape of a `PatchAutoencoder`. The defaults are those of `mini`.

    Attributes:
        latent_channels: channels of the latents.
        encoder_channels: features of the encoder's residual at 1/4, 1/8 and 1/16 of the resolution; empty for none.
        decoder_channels: features of the decoder's residual at 1/16, 1/8 and 1/4 of the resolution; empty for none.
        decoder_blocks: memory blocks of its three stages.
        decoder_neighbours: rank of a linear map by which the decoder also sees the eight latents around a latent and
            the one before it, so that edges and motion go on across patches; 0 for none.
        decoder_time_growth: frames that the second and third stage make out of one; what is left of the four comes
            out of the last convolution.
    """

    latent_channels: int = 32
    encoder_channels: tuple[int, ...] = (32, 64, 96)
    decoder_channels: tuple[int, ...] = (64, 32, 16)
    decoder_blocks: tuple[int, int, int] = (1, 1, 1)
    decoder_time_growth: tuple[int, int] = (1, 2)
    decoder_neighbours: int = 0

    def __post_init__(self) -> None:
        most = Neighbours.values(self.latent_channels)
        if isinstance(self.decoder_neighbours, bool) or not 0 <= self.decoder_neighbours <= most:
            raise BadConfig(
                f"decoder_neighbours is the rank of a map, 0 (for none) to {most}, not {self.decoder_neighbours!r}",
                param="decoder_neighbours",
            )
        if min(self.latent_channels, *self.decoder_time_growth) < 1 or len(self.decoder_time_growth) != 2:
            raise BadConfig("latent_channels and the two of decoder_time_growth start at 1")
        if len(self.encoder_channels) not in (0, 3) or len(self.decoder_channels) not in (0, 3):
            raise BadConfig("encoder_channels and decoder_channels have three entries, or none")
        if PATCH_FRAMES % prod(self.decoder_time_growth):
            raise BadConfig(f"decoder_time_growth {self.decoder_time_growth} does not divide 4 frames")

    @property
    def linear(self) -> bool:
        """Whether the decoder is: it has no residual."""
        return not self.decoder_channels

    @property
    def patch(self) -> int:
        """Rows and columns of pixels per row and column of latents."""
        return _PATCH

    @property
    def tile_frames(self) -> int:
        """Frames of a tile: those that the decoder's last convolution makes out of one."""
        return PATCH_FRAMES // prod(self.decoder_time_growth)

    @property
    def residual(self) -> DecoderConfig:
        """Shape of the decoder's residual, which makes tiles."""
        return DecoderConfig(
            latent_channels=self.latent_channels,
            out_channels=self.tile_frames * _TILE**2 * _COLOURS,
            stage_channels=self.decoder_channels,
            blocks_per_stage=self.decoder_blocks,
            space_growth=(2, 2),
            time_growth=self.decoder_time_growth,
            first_frame="replicate",
            squash=False,
            narrow_first=True,
            zero_init=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBasis:
    """Principal components of patches.

    Attributes:
        mean_P: mean patch, pixels in [0, 1].
        components_CP: orthonormal rows, strongest first.
        sigma_C: standard deviation of the patches along each row.
    """

    mean_P: Tensor
    components_CP: Tensor
    sigma_C: Tensor


def patchify(frames_BTCHW: Tensor, tile_frames: int) -> Tensor:
    """Cut frames into patches.

    Args:
        frames_BTCHW: T a multiple of 4, H and W multiples of 16, three colours.
        tile_frames: frames of a tile, a divisor of 4.

    Returns:
        (B, T/4, H/16, W/16, P), contiguous.

    Raises:
        ValueError: a size is not such a multiple.
    """
    batch, frames, _, height, width = frames_BTCHW.shape
    if frames % PATCH_FRAMES or height % _PATCH or width % _PATCH:
        raise ValueError(f"{frames} frames of {height}x{width} don't divide into 4 frames of 16x16 pixels")
    n, h, w = frames // PATCH_FRAMES, height // _PATCH, width // _PATCH
    t, tiles = PATCH_FRAMES // tile_frames, _PATCH // _TILE
    x = frames_BTCHW.reshape(batch, n, t, tile_frames, _COLOURS, h, tiles, _TILE, w, tiles, _TILE)
    return x.permute(0, 1, 5, 8, 2, 6, 9, 3, 7, 10, 4).reshape(batch, n, h, w, _PATCH_SIZE)


def in_raster_order(values_P: Tensor, tile_frames: int) -> Tensor:
    """Reorder values of a patch, (P, ...), from the order of `patchify` to that of `raster_to_frames`."""
    tiles = _PATCH // _TILE
    x = values_P.unflatten(0, (PATCH_FRAMES // tile_frames, tiles, tiles, tile_frames, _TILE, -1))
    return x.movedim((3, 4), (1, 3)).flatten(0, 5)


def raster_to_frames(patches_BnhwP: Tensor) -> Tensor:
    """Lay patches in raster order side by side: frames (B,T,H,W,3), contiguous."""
    batch, n, h, w, _ = patches_BnhwP.shape
    frames = _rows_of_frames(patches_BnhwP)
    return frames.reshape(batch, n * PATCH_FRAMES, h * _PATCH, w * _PATCH, _COLOURS)


def _rows_of_frames(patches_BnhwP: Tensor) -> Tensor:
    """A view of patches in raster order as the rows of frames that they make, (B, n, 4, h, 16, w, P/64)."""
    return patches_BnhwP.unflatten(-1, (PATCH_FRAMES, _PATCH, -1)).permute(0, 1, 4, 2, 5, 3, 6)


def with_first_repeated(frames_BTCHW: Tensor) -> Tensor:
    """Put copies of the first frame in front: 4n - 3 frames to the 4n that n latent frames stand for."""
    return torch.cat([frames_BTCHW[:, :1].expand(-1, UNTRIMMED_FRAMES, -1, -1, -1), frames_BTCHW], dim=1)


class PatchEncoder(nn.Module):
    """Frames to latents. A latent frame depends on its own four frames only, so that no memory is needed."""

    latent_mean_C: Tensor
    latent_scale_C: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(_PATCH_SIZE, config.latent_channels)
        self.residual = _encoder_residual(config) if config.encoder_channels else None
        self.register_buffer("latent_mean_C", torch.zeros(config.latent_channels))
        self.register_buffer("latent_scale_C", torch.ones(config.latent_channels))

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """Encode frames.

        Args:
            frames_BTCHW: pixels in [0, 1]; T a multiple of 4, H and W multiples of 16.

        Returns:
            (B, T/4, latent_channels, H/16, W/16), dtype of the weights.

        Raises:
            ValueError: a size is not such a multiple.
        """
        frames_BTCHW = frames_BTCHW.to(self.embed.weight.dtype) - MID_GREY
        patches_BnhwP = patchify(frames_BTCHW, self.config.tile_frames)
        latent_BnhwC = self.embed(patches_BnhwP)
        if self.residual is not None:
            batch, n = latent_BnhwC.shape[:2]
            x_NCHW = functional.pixel_unshuffle(frames_BTCHW, _TILE).reshape(
                batch * n, -1, frames_BTCHW.shape[3] // _TILE, frames_BTCHW.shape[4] // _TILE
            )
            y_NCHW = self.residual(x_NCHW.contiguous(memory_format=torch.channels_last))
            latent_BnhwC = latent_BnhwC + y_NCHW.permute(0, 2, 3, 1).unflatten(0, (batch, n))
        latent_BnhwC = (latent_BnhwC - self.latent_mean_C) * self.latent_scale_C
        return latent_BnhwC.permute(0, 1, 4, 2, 3)

    def encode_clip(self, frames_BTCHW: Tensor) -> Tensor:
        """Encode a clip of 4n-3 frames to n latent frames, the first of which stands for the first frame alone."""
        latent_BTCHW: Tensor = self(with_first_repeated(frames_BTCHW))
        return latent_BTCHW


def _encoder_residual(config: PatchConfig) -> nn.Sequential:
    """Convolutions from the 4x4 tiles of four frames down to latents, the last one zero."""
    first, second, third = config.encoder_channels
    last = nn.Conv2d(third, config.latent_channels, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(
        nn.Conv2d(PATCH_FRAMES * _COLOURS * _TILE**2, first, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, third, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        last,
    )


class Neighbours(nn.Module):
    """What the latents around a latent and the one before it say of its patch, by a linear map of some rank; starts at
    nothing."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(self.values(channels), rank, bias=False)
        self.expand = nn.Linear(rank, _PATCH_SIZE, bias=False)
        self.mute()

    def mute(self) -> None:
        """Say nothing from now on, until it is fitted."""
        nn.init.zeros_(self.expand.weight)

    @staticmethod
    def values(channels: int) -> int:
        """Numbers that a patch is told from: those of 3x3 latents, and of the latent before the middle one."""
        return (_AROUND**2 + 1) * channels

    @staticmethod
    def gather(latent_NCHW: Tensor, before_NCHW: Tensor) -> Tensor:
        """Those numbers of every latent, (N, h, w, values). At the border the outermost latents are repeated."""
        padded_NCHW = functional.pad(latent_NCHW, (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
        rows, cols = latent_NCHW.shape[2:]
        around = [
            padded_NCHW[:, row : row + rows, col : col + cols]
            for row in range(_AROUND)
            for col in range(_AROUND)
        ]
        return torch.cat([*around, before_NCHW.permute(0, 2, 3, 1)], dim=-1)

    def reduced(self, latent_BTCHW: Tensor, memory: FrameMemory, slot: int) -> Tensor:
        """(B, n, h, w, R), which the weight of `expand` maps to a change of the patches; the decoder joins that map
        with its own. ``slot`` of the memory keeps the latest latent."""
        batch = latent_BTCHW.shape[0]
        latent_NCHW = to_time_major(latent_BTCHW).to(self.reduce.weight.dtype)
        before_NCHW = memory.delay(slot, latent_NCHW, batch)
        return from_time_major(self.reduce(self.gather(latent_NCHW, before_NCHW)), batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PatchSource:
    """What the patches of latent frames are made of.

    Attributes:
        told_BnhwK: numbers that they are linear in.
        weight_PK, bias_P: the linear map, to raster order.
        tiles: the residual's change of them, (B, 4n/f, 4h, 4w, Q), if there is a residual.
    """

    told_BnhwK: Tensor
    weight_PK: Tensor
    bias_P: Tensor
    tiles: Tensor | None

    def rows(self, top: int, bottom: int) -> Tensor:
        """The patches of the rows from ``top`` to ``bottom``, or to the last one, relative to mid grey, (B, n, rows, w,
        P) in raster order."""
        told_BnhwK = self.told_BnhwK[:, :, top:bottom]
        patches_BnhwP = functional.linear(told_BnhwK, self.weight_PK, self.bias_P)
        if self.tiles is not None:
            side, n = _PATCH // _TILE, told_BnhwK.shape[1]
            tiles = self.tiles[:, :, side * top : side * bottom]
            # (B, n, 4/f, h, 4, w, 4, f, 4, a tile's row)
            tiles = tiles.unflatten(1, (n, -1)).unflatten(3, (-1, side)).unflatten(5, (-1, side))
            tiles = tiles.unflatten(-1, (-1, _TILE, _TILE * _COLOURS))
            change = tiles.permute(0, 1, 3, 5, 2, 7, 4, 8, 6, 9)
            patches_BnhwP.unflatten(-1, change.shape[4:]).add_(change)
        return patches_BnhwP


class PatchDecoder(nn.Module):
    """Latents to frames: linear patches plus, where the config says so, `Neighbours` and a `TinyDecoder` that works at
    1/16, 1/8 and 1/4 of the resolution.

    Weights only: a stream's memory is passed in.
    """

    latent_mean_C: Tensor
    latent_scale_C: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        self.unembed = nn.Linear(config.latent_channels, _PATCH_SIZE)
        self.neighbours = (
            Neighbours(config.latent_channels, config.decoder_neighbours)
            if config.decoder_neighbours
            else None
        )
        self.residual = TinyDecoder(config.residual) if config.decoder_channels else None
        self.register_buffer("latent_mean_C", torch.zeros(config.latent_channels))
        self.register_buffer("latent_scale_C", torch.ones(config.latent_channels))

    def init_memory(self) -> FrameMemory:
        """Return the empty memory of a new stream."""
        return FrameMemory(self._residual_slots + (self.neighbours is not None), "replicate")

    @property
    def _residual_slots(self) -> int:
        return 0 if self.residual is None else self.residual.memory_slots

    def forward(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Decode the next latent frames of a stream.

        Args:
            latent_BTCHW: n latent frames, (B, n, latent_channels, h, w).
            memory: the stream's memory, updated in place.

        Returns:
            Pixels (B, 4n, 3, 16h, 16w), float32, nominally in [0, 1] but not clamped, laid out channels last.
        """
        patches_BnhwP = self._advance(latent_BTCHW, memory, self._map()).rows(0, latent_BTCHW.shape[3])
        pixels_BTHWC = raster_to_frames(patches_BnhwP).float() + MID_GREY
        return pixels_BTHWC.permute(0, 1, 4, 2, 3)

    def decode(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """Like `forward`, but clamped to [0, 1]."""
        return self(latent_BTCHW, memory).clamp_(0, 1)

    def decode_uint8(self, latent_BTCHW: Tensor, memory: FrameMemory, layout: PixelLayout = "rgb") -> Tensor:
        """Like `forward`, but uint8 frames, rounded: (B,4n,16h,16w,3), or what else ``layout`` says; the way to show
        them.

        Goes latent frame by latent frame and, on a CPU, by a few rows of latents, whose patches its caches hold until
        they are bytes. There a decoder without residual makes yuv420p with no RGB in between, so that colours are
        clamped only when they are shown.
        """
        ones = latent_BTCHW.split(1, dim=1)
        if layout == "rgb":
            return self._decode_rgb(ones, memory)
        if layout == "yuv420p" and self.config.linear and latent_BTCHW.device.type == "cpu":
            return self._decode_planes(ones, memory)
        linear, packed = self._map(), []
        for one_BTCHW in ones:
            patches_BnhwP = self._advance(one_BTCHW, memory, linear).rows(0, one_BTCHW.shape[3])
            pixels_BTHWC = raster_to_frames(patches_BnhwP)
            bytes_ = pack(pixels_BTHWC.flatten(0, 1), layout=layout, offset=MID_GREY)
            packed.append(bytes_.unflatten(0, pixels_BTHWC.shape[:2]))
        return torch.cat(packed, dim=1)

    def _decode_rgb(self, ones: Sequence[Tensor], memory: FrameMemory) -> Tensor:
        batch, _, _, h, w = ones[0].shape
        band = _BAND_ROWS if ones[0].device.type == "cpu" else h
        # Four bytes at a time are moved in a third of the time.
        words = torch.empty(
            (batch, len(ones), PATCH_FRAMES, h, _PATCH, w, _PATCH * _COLOURS // 4),
            dtype=torch.int32,
            device=ones[0].device,
        )
        linear = self._map()
        for number, one_BTCHW in enumerate(ones):
            source = self._advance(one_BTCHW, memory, linear)
            for top in range(0, h, band):
                levels_BnhwP = quantize(source.rows(top, top + band), offset=MID_GREY)
                target = words[:, number : number + 1, :, top : top + band]
                target.copy_(_rows_of_frames(levels_BnhwP.view(torch.int32)))
        return words.view(torch.uint8).view(batch, -1, h * _PATCH, w * _PATCH, _COLOURS)

    def _decode_planes(self, ones: Sequence[Tensor], memory: FrameMemory) -> Tensor:
        batch, _, _, h, w = ones[0].shape
        patch = (PATCH_FRAMES, _PATCH, _PATCH)
        frames, *rooms = empty_planes((batch, len(ones), h, w), patch)
        linear = self._map()
        maps = luma_and_chroma(*linear, patch)
        for number, one_BTCHW in enumerate(ones):
            told_BnhwK = self._advance(one_BTCHW, memory, linear).told_BnhwK
            for top in range(0, h, _BAND_ROWS):
                rows = slice(top, top + _BAND_ROWS)
                for planes, room in zip(maps, rooms, strict=True):
                    planes.write(told_BnhwK[:, :, rows], room[:, number : number + 1, :, :, rows])
        return frames

    def _map(self) -> tuple[Tensor, Tensor]:
        """Weight (P, K) and bias (P,) of the linear map to patches in raster order.

        One product with it writes all patches once, where one for each part would write them twice and sum them.
        """
        weight_PK = self.unembed.weight
        if self.neighbours is not None:
            weight_PK = torch.cat((weight_PK, self.neighbours.expand.weight), dim=1)
        f = self.config.tile_frames
        return in_raster_order(weight_PK, f), in_raster_order(self.unembed.bias, f)

    def _advance(
        self, latent_BTCHW: Tensor, memory: FrameMemory, linear: tuple[Tensor, Tensor]
    ) -> _PatchSource:
        """What the patches of the next latent frames are made of, by the map ``linear``; updates the memory."""
        raw_BnhwC = latent_BTCHW.permute(0, 1, 3, 4, 2) / self.latent_scale_C + self.latent_mean_C
        told_BnhwK = raw_BnhwC.to(self.unembed.weight.dtype)
        if self.neighbours is not None:
            reduced_BnhwR = self.neighbours.reduced(latent_BTCHW, memory, self._residual_slots)
            told_BnhwK = torch.cat((told_BnhwK, reduced_BnhwR), dim=-1)
        tiles = None
        if self.residual is not None:
            tiles = self.residual(latent_BTCHW, memory).permute(0, 1, 3, 4, 2)
        weight_PK, bias_P = linear
        return _PatchSource(told_BnhwK=told_BnhwK, weight_PK=weight_PK, bias_P=bias_P, tiles=tiles)


class PatchAutoencoder(nn.Module):
    """Encoder and decoder of `mini`."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.encoder = PatchEncoder(config)
        self.decoder = PatchDecoder(config)

    def init_from_pca(self, basis: PatchBasis, scale_C: Tensor) -> None:
        """Start as the PCA: while the residuals are zero, decode(encode(x)) is the projection of x.

        Args:
            basis: of patches cut with this autoencoder's ``tile_frames``.
            scale_C: factor of each channel.
        """
        centre_P = basis.mean_P - MID_GREY
        with torch.no_grad():
            self.encoder.embed.weight.copy_(basis.components_CP)
            self.encoder.embed.bias.copy_(-(basis.components_CP @ centre_P))
            self.decoder.unembed.weight.copy_(basis.components_CP.T)
            self.decoder.unembed.bias.copy_(centre_P)
        self.set_latent_statistics(torch.zeros_like(scale_C), scale_C)

    def set_latent_statistics(self, mean_C: Tensor, scale_C: Tensor) -> None:
        """Set what encoder and decoder normalize with: latent = (raw - mean) * scale.

        The decoder's residual reads normalized latents, so do it before training that.
        """
        for half in (self.encoder, self.decoder):
            half.latent_mean_C.copy_(mean_C)
            half.latent_scale_C.copy_(scale_C)
