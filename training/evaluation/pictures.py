"""How good the stages behind the base are: the autoencoder, and super-resolution against interpolation.

Shapes: T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.models.cascade import Cascade
from ultraflash.models.frame_encoder import FrameEncoder, load_frame_encoder
from ultraflash.models.patch_autoencoder import UNTRIMMED_FRAMES
from ultraflash.models.upscaling import Upscaler
from ultraflash.training.autoencoder import psnr
from ultraflash.training.evaluation.intervals import Measure, mean
from ultraflash.training.evaluation.streams import TestPrompt, shrunk
from ultraflash.training.vista.painter import render

FRAMES = 21


def picture_quality(cascade: Cascade, prompts: Sequence[TestPrompt], *, size: str) -> dict[str, Measure]:
    """Mean PSNR in dB over rendered clips.

    ``autoencoder``: frames of full size, encoded and decoded again. ``sr``: frames shrunk to the base's size, encoded
    and enlarged by the cascade. ``sr_gain``: how much that is above bicubic interpolation of the same latents decoded.
    """
    encoder = load_frame_encoder(cascade.preset, device=cascade.pictures.device)
    upscaler = Upscaler(cascade, encoder)
    chosen = cascade.preset.size(size)
    found: dict[str, list[float]] = {"autoencoder": [], "sr": [], "sr_gain": []}
    for prompt in prompts:
        true = render(prompt.scene, frames=FRAMES, height=chosen.height, width=chosen.width)
        small = shrunk(true, chosen.factor)
        of_sr = _decibels(enlarged(upscaler, small, prompt.text, chosen.factor), true)
        plain = _bicubic(through_latents(cascade, encoder, small), chosen.factor)
        found["autoencoder"].append(_decibels(through_latents(cascade, encoder, true), true))
        found["sr"].append(of_sr)
        found["sr_gain"].append(of_sr - _decibels(plain, true))
    return {name: mean(values) for name, values in found.items()}


def _decibels(made_THWC: Tensor, true_THWC: Tensor) -> float:
    return psnr((made_THWC.float() - true_THWC.float()) / 255)


def through_latents(cascade: Cascade, encoder: FrameEncoder, frames_THWC: Tensor) -> Tensor:
    """What the cascade's autoencoder leaves of 4n-3 uint8 frames, as its decoder shows them."""
    pictures = cascade.pictures
    pixels = frames_THWC.permute(0, 3, 1, 2)[None].to(pictures.device).float() / 255
    latent = encoder.encode(pixels, encoder.init_memory()).to(pictures.dtype)
    with torch.inference_mode():
        shown = pictures.decoder.decode_uint8(latent, pictures.decoder.init_memory())
    return shown[0, UNTRIMMED_FRAMES:].cpu()


def enlarged(upscaler: Upscaler, small_THWC: Tensor, prompt: str, factor: int) -> Tensor:
    """uint8 frames as the upscaler makes them ``factor`` times as large."""
    _, height, width, _ = small_THWC.shape
    stream = upscaler.open(prompt, height=height, width=width, factor=factor)
    made, start = [], 0
    while start < len(small_THWC):
        group = small_THWC[start : start + upscaler.group_frames(stream)]
        made.append(upscaler.next_group(stream, group))
        start += len(group)
    return torch.cat(made)


def _bicubic(frames_THWC: Tensor, factor: int) -> Tensor:
    large = functional.interpolate(
        frames_THWC.permute(0, 3, 1, 2).float(), scale_factor=factor, mode="bicubic"
    )
    return large.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
