"""Wan 2.1's own VAE, by diffusers: pixels to the latents that the transformers work on.

Its weights come as Wan published them, as diffusers has them, or as files of ours.

Shapes: B batch, T pixel frames, n latent frames, C channels, H W pixel rows and columns, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ultraflash.models.checkpoints.files import read_network, read_stored, stored_files
from ultraflash.models.checkpoints.vae_naming import wan_vae_names
from ultraflash.models.errors import MissingExtra, MissingWeights
from ultraflash.models.patch_autoencoder import PATCH_FRAMES
from ultraflash.models.weights import assign_strict

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


VAE = "vae"
"""The part of a preset that these weights are."""

WAN_FILE = "Wan2.1_VAE.pth"
"""Name of the weights in Wan's own repositories."""


def wan_vae(shape: Mapping[str, Any] | None = None) -> AutoencoderKLWan:
    """Diffusers' network on the meta device.

    Args:
        shape: its arguments, where they are not those of Wan 2.1.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    network = wan_vae_class()
    with torch.device("meta"):
        return network(**(shape or {}))


def wan_vae_class() -> type[AutoencoderKLWan]:
    """Diffusers' class of it. Raises MissingExtra where diffusers is not installed."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise MissingExtra(
            "Wan's VAE wants diffusers; install it with: pip install 'ultraflash[official]'"
        ) from error
    return AutoencoderKLWan


class EncodeMemory:
    """What the causal convolutions of the encoder have seen of one stream."""

    def __init__(self, convolutions: int) -> None:
        self.features: list[Any] = [None] * convolutions

    @property
    def started(self) -> bool:
        """Whether the stream has had its first frame."""
        return any(feature is not None for feature in self.features)


class WanVideoEncoder:
    """Frames to normalized latents, a clip at once or piece by piece; a stream's memory is passed in."""

    def __init__(self, vae: AutoencoderKLWan, *, device: str | None = None) -> None:
        """Take the encoder of diffusers' network over; the decoder, its larger half, is not kept.

        Its decoded latents are ``mean + std * ours``, channel by channel, both from its configuration.

        Args:
            vae: with weights, or on the meta device for what takes none.
            device: where to put it; where it is, if None.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        self.networks = nn.ModuleDict({"encoder": vae.encoder, "quant_conv": vae.quant_conv})
        self.networks.to(device).eval().requires_grad_(False)
        self._convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.encoder.modules())
        where = next(self.networks.parameters()).device
        self._mean_C1hw = torch.tensor(vae.config.latents_mean, device=where).view(-1, 1, 1, 1)
        self._std_C1hw = torch.tensor(vae.config.latents_std, device=where).view(-1, 1, 1, 1)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        shape: Mapping[str, Any] | None = None,
    ) -> WanVideoEncoder:
        """Load what a folder holds: our own files, Wan's own file, or the files of diffusers' folder ``vae``.

        Args:
            folder: where they are.
            device, dtype: what it computes on and in.
            shape: as in :func:`wan_vae`, for files that do not say it themselves, as diffusers' do.

        Raises:
            MissingExtra: diffusers is not installed.
            MissingWeights: there is no such network in the folder, or it is another one.
        """
        if files := stored_files(folder, VAE):
            return cls.of_tensors(
                read_stored(files), source=str(folder), device=device, dtype=dtype, shape=shape
            )
        own = folder / WAN_FILE
        if own.is_file():
            tensors = wan_vae_names(read_network(own), source=str(own))
            return cls.of_tensors(tensors, source=str(own), device=device, dtype=dtype, shape=shape)
        network = wan_vae_class()
        try:
            vae = network.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        except OSError as error:
            raise MissingWeights(
                f"no VAE in {folder}; fetch it with `ultraflash models pull` and the preset's name, or put {WAN_FILE} "
                "of https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B into it, or what is in the folder vae of "
                "https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                param="weights",
            ) from error
        return cls(vae, device=device)

    @classmethod
    def of_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        source: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        shape: Mapping[str, Any] | None = None,
    ) -> WanVideoEncoder:
        """Take tensors over that have diffusers' names.

        Args:
            tensors: of the whole network.
            source: where they came from, for the message.
            device, dtype: what it computes on and in.
            shape: as in :func:`wan_vae`.

        Raises:
            MissingExtra: diffusers is not installed.
            MissingWeights: a tensor is absent, unknown or of another shape.
        """
        vae = wan_vae(shape)
        assign_strict(vae, tensors, source=source)
        return cls(vae.to(dtype), device=device)

    def init_memory(self) -> EncodeMemory:
        """The empty memory of a new stream."""
        return EncodeMemory(self._convolutions)

    @torch.no_grad()
    def encode(self, frames_BTCHW: Tensor, memory: EncodeMemory) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            frames_BTCHW: pixels in [0, 1]; 4n-3 frames at a stream's start, the first standing alone, then 4n.
            memory: the stream's memory, updated in place.

        Returns:
            float32 (B, n, C, h, w), means of the posterior, of unit scale.

        Raises:
            ValueError: another number of frames.
        """
        frames = frames_BTCHW.shape[1]
        first = 0 if memory.started else 1
        if frames < 1 or (frames - first) % PATCH_FRAMES:
            wanted = "4n" if memory.started else "4n-3"
            raise ValueError(f"{frames} frames where {wanted} are wanted")
        encoder, quant_conv = self.networks["encoder"], self.networks["quant_conv"]
        dtype = next(encoder.parameters()).dtype
        x_BCTHW = (frames_BTCHW.transpose(1, 2) * 2 - 1).to(dtype)
        sizes = [1] * first + [PATCH_FRAMES] * ((frames - first) // PATCH_FRAMES)
        features = [
            encoder(piece, feat_cache=memory.features, feat_idx=[0]) for piece in x_BCTHW.split(sizes, dim=2)
        ]
        means_BCnhw = quant_conv(torch.cat(features, dim=2)).float().chunk(2, dim=1)[0]
        return ((means_BCnhw - self._mean_C1hw) / self._std_C1hw).transpose(1, 2)
