"""Latents as pixels, by the decoder's linear part alone: cheap enough for every step of a training.

A channel's scale says nothing of how much its errors are seen, and errors that disagree from patch to patch are seen
most, as a grid. In pixels both count for what they are.

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

    def difference(self, latent_BCFHW: Tensor) -> Tensor:
        """Differences of latents, (B, C, F, H, W), as differences of pixels, float32 (B, 4F, 16H, 16W, 3)."""
        patches_BFHWP = latent_BCFHW.permute(0, 2, 3, 4, 1).float() @ self._weight_PC.T
        return raster_to_frames(patches_BFHWP)


def seen_error(error_BTHWC: Tensor, *, edges: float) -> tuple[Tensor, Tensor]:
    """How far pictures are off for the eye.

    Args:
        error_BTHWC: differences of pixels.
        edges: weight of the differences between neighbours in time and space, in which a grid and flicker show.

    Returns:
        The loss and the mean absolute error alone.
    """
    pixel = error_BTHWC.abs().mean()
    neighbours = sum(
        (error_BTHWC.diff(dim=axis).abs().mean() for axis in (1, 2, 3)),
        start=torch.zeros((), device=error_BTHWC.device),
    )
    return pixel + edges / 3 * neighbours, pixel
