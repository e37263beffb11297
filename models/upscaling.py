"""Super-resolution of frames that exist: encoded, upsampled, refined and decoded, group by group.

Shapes: B batch (1), T pixel frames, C channels, H W pixel rows and columns of what comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.models.cascade import Cascade
from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_encoder import FrameEncoder, load_frame_encoder
from ultraflash.models.noise import check_seed
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchConfig
from ultraflash.models.preset import Size
from ultraflash.models.stage_clock import StageClock
from ultraflash.models.stream_state import Picture, PromptContext

LARGEST_SIDE = 4096
"""Pixels of the longer side of what comes out."""


@dataclass(slots=True, kw_only=True)
class UpscaleStream:
    """One video in work; made by `Upscaler.open`.

    Attributes:
        height, width: of the frames that go in.
        factor: how far they are enlarged.
        encoder: the frame encoder's memory.
        latent_frames: made so far.
    """

    height: int
    width: int
    factor: int
    seed: int
    picture: Picture
    prompt_context: PromptContext
    encoder: Any
    dynamic_cache: DynamicCacheConfig = field(default_factory=DynamicCacheConfig)
    sr_share: float = 1.0
    groups: int = 0
    latent_frames: int = 0


class Upscaler:
    """The picture stages of a cascade behind an encoder. Not to be called by two threads at once."""

    def __init__(self, cascade: Cascade, encoder: FrameEncoder) -> None:
        self._cascade = cascade
        self._encoder = encoder
        self._pictures = cascade.pictures

    @classmethod
    def of(cls, cascade: Cascade) -> Upscaler:
        """Load the encoder that belongs to a cascade. Raises what `load_frame_encoder` does."""
        return cls(cascade, load_frame_encoder(cascade.preset, device=cascade.pictures.device))

    @property
    def factors(self) -> tuple[int, ...]:
        """What it can enlarge by."""
        return tuple(sorted(self._pictures.upsamplers))

    def open(self, prompt: str, *, height: int, width: int, factor: int, seed: int = 0) -> UpscaleStream:
        """Begin a video.

        Args:
            prompt: what it shows; super-resolution reads it.
            height, width: of its frames; any, since edges are continued to whole latents.
            factor: one of ``factors``.
            seed: of the noise that super-resolution starts from.

        Raises:
            BadConfig: a factor that there is no upsampler for, or a size out of range.
            EmptyPrompt, PromptTooLong, InvalidSeed.
        """
        if factor not in self.factors:
            named = ", ".join(str(each) for each in self.factors) or "none"
            raise BadConfig(
                f"{self._cascade.preset.name} enlarges by these factors: {named}; not by {factor}",
                param="factor",
            )
        if min(height, width) < 1 or max(height, width) * factor > LARGEST_SIDE:
            raise BadConfig(
                f"{width}x{height} by {factor} is out of range; "
                f"the longer side of the result is at most {LARGEST_SIDE}",
                param="factor",
            )
        return UpscaleStream(
            height=height,
            width=width,
            factor=factor,
            seed=check_seed(seed),
            picture=self._pictures.open(self._size(height, width, factor)),
            prompt_context=self._cascade.encode_prompt(prompt),
            encoder=self._encoder.init_memory(),
        )

    def group_frames(self, stream: UpscaleStream) -> int:
        """Frames that the next group takes."""
        frames = PATCH_FRAMES * self._cascade.preset.group_frames
        return frames if stream.groups else frames - UNTRIMMED_FRAMES

    @torch.inference_mode()
    def next_group(self, stream: UpscaleStream, frames_THWC: Tensor) -> Tensor:
        """Enlarge the next frames of a video.

        Args:
            stream: the video.
            frames_THWC: uint8 RGB; ``group_frames`` of them, or fewer at the video's end.

        Returns:
            uint8 (T, factor * H, factor * W, 3), contiguous, on the CPU.

        Raises:
            ValueError: frames of another size or number.
        """
        count, wanted = frames_THWC.shape[0], self.group_frames(stream)
        if not 1 <= count <= wanted or frames_THWC.shape[1:] != (stream.height, stream.width, 3):
            raise ValueError(
                f"1 to {wanted} frames of {stream.height}x{stream.width}x3 were expected, "
                f"not {tuple(frames_THWC.shape)}"
            )
        latent_BTCHW = self._encoder.encode(self._whole(stream, frames_THWC, wanted), stream.encoder)
        latent_BCFHW = latent_BTCHW.transpose(1, 2)
        clock = StageClock(self._pictures.device)
        enlarged = self._pictures.show(stream, latent_BCFHW, stream.latent_frames, clock)
        if stream.groups == 0:
            enlarged = enlarged[UNTRIMMED_FRAMES:]
        stream.groups += 1
        stream.latent_frames += latent_BCFHW.shape[2]
        factor = stream.factor
        return enlarged[:count, : factor * stream.height, : factor * stream.width].contiguous()

    def _whole(self, stream: UpscaleStream, frames_THWC: Tensor, wanted: int) -> Tensor:
        """Frames in [0, 1] (1, T, 3, H, W), the last one repeated and edges continued to whole groups and latents."""
        last = frames_THWC[-1:].expand(wanted - frames_THWC.shape[0], -1, -1, -1)
        pixels = torch.cat((frames_THWC, last)).to(self._pictures.device).permute(0, 3, 1, 2).float() / 255
        size = stream.picture.size
        bottom = size.rows * size.spatial - stream.height
        right = size.cols * size.spatial - stream.width
        return functional.pad(pixels, (0, right, 0, bottom), mode="replicate")[None]

    def _size(self, height: int, width: int, factor: int) -> Size:
        """The latents that cover a picture, in whole patches of the super-resolution network."""
        preset = self._cascade.preset
        decoder = preset.decoder
        spatial = decoder.patch if isinstance(decoder, PatchConfig) else decoder.space_factor
        _, down, across = preset.sr.dit.patch if preset.sr is not None else (1, 1, 1)
        rows = math.ceil(height / (spatial * down)) * down
        cols = math.ceil(width / (spatial * across)) * across
        return Size(
            name=f"{width}x{height} by {factor}", rows=rows, cols=cols, factor=factor, spatial=spatial
        )
