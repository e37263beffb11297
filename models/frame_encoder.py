"""Frames to the latents of a preset: what starts a stream from pictures that exist, or enlarges them.

Shapes: B batch, T pixel frames, n latent frames, C channels, H W pixel rows and columns, h w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ultraflash.models.loading import part_tensors
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, PatchConfig, PatchEncoder
from ultraflash.models.preset import Preset
from ultraflash.models.sources import models_home
from ultraflash.models.wan_vae import VAE, WanVideoEncoder, wan_vae
from ultraflash.models.weights import load_strict

ENCODER = "encoder"
"""The encoder's part of a preset whose weights are of this repository's making."""

WAN_VAE_STORE = "wan-vae"
"""Folder under `models_home` of the VAE that the official presets' latents are of, for a preset without a source of
it."""


class FrameEncoder(Protocol):
    """Pixels to latents, piece by piece; a stream's memory is passed in."""

    @property
    def networks(self) -> nn.Module:
        """What holds its weights."""

    def init_memory(self) -> Any:
        """The empty memory of a new stream."""

    def encode(self, frames_BTCHW: Tensor, memory: Any) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            frames_BTCHW: pixels in [0, 1]; 4n-3 frames at a stream's start, the first standing alone, then 4n.
            memory: the stream's memory, updated in place.

        Returns:
            float32 (B, n, C, h, w).

        Raises:
            ValueError: another number of frames.
        """


@dataclass(slots=True)
class PatchMemory:
    """Whether a stream has had its first frame; its latents don't depend on more."""

    started: bool = False


class PatchFrameEncoder:
    """The linear encoder of `mini` as a `FrameEncoder`."""

    def __init__(self, encoder: PatchEncoder) -> None:
        self.networks: PatchEncoder = encoder.eval().requires_grad_(False)

    def init_memory(self) -> PatchMemory:
        """The empty memory of a new stream."""
        return PatchMemory()

    @torch.no_grad()
    def encode(self, frames_BTCHW: Tensor, memory: PatchMemory) -> Tensor:
        """See `FrameEncoder`."""
        frames, first = frames_BTCHW.shape[1], 0 if memory.started else 1
        if frames < 1 or (frames - first) % PATCH_FRAMES:
            raise ValueError(f"{frames} frames where {'4n' if memory.started else '4n-3'} are wanted")
        encode = self.networks if memory.started else self.networks.encode_clip
        memory.started = True
        latent_BTCHW: Tensor = encode(frames_BTCHW)
        return latent_BTCHW.float()


def blank_frame_encoder(preset: Preset) -> FrameEncoder:
    """The encoder of a preset without its weights, on the meta device.

    Raises:
        MissingExtra: it is Wan's, and diffusers is not installed.
    """
    if not isinstance(preset.decoder, PatchConfig):
        return WanVideoEncoder(wan_vae(), device="meta")
    with torch.device("meta"):
        return PatchFrameEncoder(PatchEncoder(preset.decoder))


def load_frame_encoder(preset: Preset, *, device: torch.device) -> FrameEncoder:
    """The encoder whose latents a preset's networks work on.

    Raises:
        MissingWeights: its file is not there; the message says where it belongs.
        MissingExtra: it is Wan's, and diffusers is not installed.
    """
    if isinstance(preset.decoder, PatchConfig):
        encoder = PatchEncoder(preset.decoder)
        load_strict(encoder, part_tensors(preset, ENCODER), source=f"{preset.name} ({ENCODER})")
        return PatchFrameEncoder(encoder.to(device))
    source = preset.source(VAE)
    folder = models_home() / WAN_VAE_STORE if source is None else source.folder
    return WanVideoEncoder.from_folder(folder, device=str(device))
