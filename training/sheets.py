"""Pictures of latents for the sample sheets of the stages.

Shapes: B batch, C channels, F latent frames, T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.patch_autoencoder import UNTRIMMED_FRAMES, PatchDecoder
from ultraflash.models.preset import Preset
from ultraflash.models.weights import DECODER_FILE, load_file
from ultraflash.training.sample_sheet import tile

SHOWN_FRAMES = 4


@torch.no_grad()
def decode_clip(decoder: PatchDecoder, latent_BCFHW: Tensor) -> Tensor:
    """Pixels uint8 (B, T, H, W, 3) of whole clips, T = 4F - 3."""
    pixels = decoder.decode(latent_BCFHW.transpose(1, 2), decoder.init_memory())[:, UNTRIMMED_FRAMES:]
    return (pixels * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)


def latent_sheet(latent_BCFHW: Tensor, captions: Sequence[str], weights: Path, preset: Preset) -> Tensor:
    """A sheet (H, W, 3) with a row of frames per clip, drawn on the CPU; the captions go to ``weights/../captions.txt`` beside it."""
    decoder = PatchDecoder(preset.decoder)
    load_file(decoder, weights / DECODER_FILE)
    frames = decode_clip(decoder.eval(), latent_BCFHW.cpu())
    picked = torch.linspace(0, frames.shape[1] - 1, SHOWN_FRAMES).round().long().tolist()
    (weights.parent / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return tile([[clip[i] for i in picked] for clip in frames])


def comparison_sheet(rows: Sequence[Sequence[Tensor]], weights: Path, preset: Preset) -> Tensor:
    """A sheet (H, W, 3) with the last frame of several versions of a clip side by side, one clip a row."""
    decoder = PatchDecoder(preset.decoder)
    load_file(decoder, weights / DECODER_FILE)
    decoder.eval()
    return tile([[decode_clip(decoder, latent[:1].cpu())[0, -1] for latent in row] for row in rows])
