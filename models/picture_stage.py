"""From base latents to frames: upsampler, super-resolution and decoder, over a stream's memory of them.

Shapes: B batch (1), C channels, F latent frames, T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ultraflash.kernels.pixels import PixelLayout
from ultraflash.models.dit import CausalDiT
from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.loading import Decoder
from ultraflash.models.noise import counter_noise
from ultraflash.models.preset import Preset, Size
from ultraflash.models.refinement import refine
from ultraflash.models.stage_clock import StageClock
from ultraflash.models.stream_state import Picture, PromptContext
from ultraflash.models.streaming_attention import SparseAttention, block_cache, no_cache, sr_grid
from ultraflash.models.upsampler import LatentUpsampler


class PictureStream(Protocol):
    """What of a stream these stages read, and write: the memory in ``picture``."""

    seed: int
    picture: Picture
    dynamic_cache: DynamicCacheConfig
    groups: int
    prompt_context: PromptContext
    sr_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureStage:
    """The networks behind the base; every call gets the stream that it works on.

    Attributes:
        upsamplers: by factor.
        sr: by part; none where the preset has none.
        layout: of the bytes of frames.
    """

    preset: Preset
    upsamplers: Mapping[int, LatentUpsampler]
    sr: Mapping[str, CausalDiT]
    decoder: Decoder
    device: torch.device
    dtype: torch.dtype
    layout: PixelLayout = "rgb"

    def open(self, size: Size) -> Picture:
        """The empty memory of a stream at a size; of the parts that the size goes without it holds nothing."""
        sr = self.preset.sr if size.refine else None
        return Picture(
            size=size,
            upsampler=self.upsamplers[size.factor].init_memory() if sr else FrameMemory(0, "zeros"),
            decoder=self.decoder.init_memory(),
            sr=block_cache(
                sr,
                sr_grid(sr, size, frames=self.preset.group_frames),
                dtype=self.dtype,
                device=self.device,
            )
            if sr
            else no_cache(self.dtype, self.device),
        )

    def show(self, state: PictureStream, latents_BCFHW: Tensor, start: int, clock: StageClock) -> Tensor:
        """Upsample, refine and decode base latents whose first frame is ``start``.

        Returns uint8 (T, H, W, 3), or as ``layout`` is.
        """
        picture = state.picture
        size = picture.size
        cropped = _centre(latents_BCFHW, size.rows, size.cols).to(self.dtype)
        if not size.refine:
            with clock.measure("decode", on_host=True):
                return self._decode(picture, cropped)
        with clock.measure("upsample"):
            upsampler = self.upsamplers[size.factor]
            condition = upsampler(cropped.transpose(1, 2), picture.upsampler).transpose(1, 2).float()
        with clock.measure("sr"):
            refined = self._refine(state, condition, start)
        with clock.measure("decode", on_host=True):
            return self._decode(picture, refined)

    def _decode(self, picture: Picture, latents_BCFHW: Tensor) -> Tensor:
        frames = self.decoder.decode_uint8(latents_BCFHW.transpose(1, 2), picture.decoder, self.layout)[0]
        return picture.fade.apply(frames.cpu())

    def _refine(self, state: PictureStream, condition_BCFHW: Tensor, start: int) -> Tensor:
        """One step of super-resolution on upsampled latents: a stream's first group at once, later ones in calls."""
        picture, sr = state.picture, self.preset.sr
        assert sr is not None
        picture.sr.limit(state.dynamic_cache.sr_window(sr.cached_blocks, state.groups))
        frames = condition_BCFHW.shape[2]
        call = frames if sr.call_frames is None or picture.sr.frame_blocks == 0 else sr.call_frames
        conditions = condition_BCFHW.split(call, dim=2)
        noises = (
            self._noise(state, condition_BCFHW, start).split(call, dim=2)
            if sr.noise
            else [None] * len(conditions)
        )
        given = zip(conditions, noises, strict=True)
        return torch.cat([self._run_sr(state, *one, start + i * call) for i, one in enumerate(given)], dim=2)

    def _noise(self, state: PictureStream, like_BCFHW: Tensor, start: int) -> Tensor:
        role = f"sr.{state.picture.size.name}"
        return counter_noise(tuple(like_BCFHW.shape), seed=state.seed, role=role, index=start).to(self.device)

    def _run_sr(
        self, state: PictureStream, condition_BCFHW: Tensor, noise_BCFHW: Tensor | None, start: int
    ) -> Tensor:
        picture, sr = state.picture, self.preset.sr
        assert sr is not None
        part = sr.part(picture.size.factor)
        assert part is not None
        frames = condition_BCFHW.shape[2]
        grid, rule = sr_grid(sr, picture.size, frames=frames), sr.rule.thinned(state.sr_share)
        refined = refine(
            self.sr[part],
            sr,
            condition_BCFHW,
            noise_BCFHW,
            state.prompt_context.sr[part],
            torch.arange(start, start + frames, device=self.device),
            SparseAttention(picture.sr, grid, rule),
        )
        picture.sr.commit()
        return refined


def _centre(latents_BCFHW: Tensor, rows: int, cols: int) -> Tensor:
    top = (latents_BCFHW.shape[3] - rows) // 2
    left = (latents_BCFHW.shape[4] - cols) // 2
    return latents_BCFHW[..., top : top + rows, left : left + cols]
