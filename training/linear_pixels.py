"""Latents as pixels, by the decoder's linear part alone: cheap enough for every step of a training.

A channel's scale says nothing of how much its errors are seen; in pixels they count for what they are.

Shapes: B batch, C channels, F latent frames, T pixel frames, H W rows and columns of either.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.patch_autoencoder import (
    PatchConfig,
    PatchDecoder,
    in_raster_order,
    raster_to_frames,
)
from ultraflash.models.weights import DECODER_FILE, load_file


class LinearPixels:
    """The unembedding of a trained decoder."""

    def __init__(self, config: PatchConfig, weights: Path, *, device: torch.device | str = "cpu") -> None:
        """Load it from the folder ``weights`` to ``device``. Raises MissingWeights where it is not there."""
        decoder = PatchDecoder(config)
        load_file(decoder, weights / DECODER_FILE)
        weight_PC = (decoder.unembed.weight / decoder.latent_scale_C).detach()
        self._weight_PC = in_raster_order(weight_PC, config.tile_frames).to(device)
        energy_C = self._weight_PC.square().sum(dim=0)
        self._energy_C = energy_C / energy_C.mean()

    def squared_error(self, error_BCFHW: Tensor) -> Tensor:
        """Mean squared difference of pixels, as a multiple of that which errors of one in all channels make.

        Channels are summed each for itself, since those of a PCA are orthogonal in pixels too. Of detail that cannot
        be foretold it is least at the mean; an absolute error is least at the median, which is fainter.
        """
        return (error_BCFHW.square().mean(dim=(0, 2, 3, 4)) * self._energy_C).mean()

    def difference(self, latent_BCFHW: Tensor) -> Tensor:
        """Differences of latents, (B, C, F, H, W), as differences of pixels, float32 (B, 4F, 16H, 16W, 3)."""
        patches_BFHWP = latent_BCFHW.permute(0, 2, 3, 4, 1).float() @ self._weight_PC.T
        return raster_to_frames(patches_BFHWP)
