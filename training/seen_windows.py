"""Windows of rendered clips as a decoder gets to see them: their latents, and the pixels that should come of these.

Shapes: T pixel frames, F latent frames, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.models.errors import BadConfig
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchDecoder
from ultraflash.models.preset import Preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.weights import load_file, upsampler_file
from ultraflash.training.autoencoder import psnr
from ultraflash.training.pairs import PairsConfig, draw_window
from ultraflash.training.patches import load_encoder, to_pixels
from ultraflash.training.remaking import Remaker, draw_sigma
from ultraflash.training.seeding import counter_generator
from ultraflash.training.vista.captions import caption

Origin = Literal["encoded", "enlarged", "remade"]
"""Whose latents they are: the encoder's, an upsampler's of what was encoded at low resolution, or an upsampler's of
what the generator has remade of that."""

_STILL = 1e-4
"""Mean change of a frame below which a clip counts as a still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWindow:
    """Latents (F, C, H, W), and the pixels (T, 3, H, W) that a decoder should make of them."""

    latent_FCHW: Tensor
    pixel_TCHW: Tensor
    origin: Origin


class SeenWindows:
    """Draws windows, and takes some through an upsampler, of which some through the multi-step generator before.

    Seams are not mended and super-resolution, which changes little, is left out.
    """

    def __init__(
        self, windows: PairsConfig, preset: Preset, weights: Path, *, seed: int, enlarged: float = 0.0
    ) -> None:
        """Load the networks.

        Args:
            windows: what is drawn; its ``remade`` is the share of windows that the generator remakes. How many make a
                shard has no meaning here.
            preset: whose shapes the networks have.
            weights: the folder of their weights.
            seed: of everything drawn.
            enlarged: share of windows that an upsampler alone makes.

        Raises:
            BadConfig: see `check_shares`.
            MissingWeights: a file is not there.
        """
        check_shares(windows, enlarged)
        self._windows, self._seed, self._enlarged = windows, seed, enlarged
        self._encoder = load_encoder(preset.decoder, weights)
        if windows.remade > 0:
            self._remake, self._text = Remaker(preset.base, weights), MiniLMEncoder()
        self._upsamplers: dict[int, LatentUpsampler] = {}
        for factor in windows.factors if windows.remade + enlarged > 0 else ():
            net = LatentUpsampler(preset.upsampler[factor])
            load_file(net, weights / upsampler_file(factor))
            self._upsamplers[factor] = net.eval()

    @torch.no_grad()
    def __call__(self, split: str, number: int) -> SeenWindow:
        """Window ``number`` of a split, at the factors in turn."""
        factor = self._windows.factors[number % len(self._windows.factors)]
        window = draw_window(self._windows, factor, number, seed=self._seed, split=split)
        pixel_TCHW = to_pixels(window.draw(factor))
        generator = counter_generator(self._seed, "decoder window", split, number)
        drawn = float(torch.rand((), generator=generator))
        if drawn >= self._windows.remade + self._enlarged:
            latent_FCHW = self._encoder.encode_clip(pixel_TCHW[None])[0]
            return SeenWindow(latent_FCHW=latent_FCHW, pixel_TCHW=pixel_TCHW, origin="encoded")
        origin: Origin = "enlarged"
        if drawn < self._windows.remade:
            origin = "remade"
            whole_FCHW = self._encoder.encode_clip(to_pixels(window.draw_whole())[None])[0]
            sigma = draw_sigma(self._windows.remade_sigmas, generator)
            text = self._text.encode(caption(window.scene, number))
            low_CFHW = self._remake(whole_FCHW.transpose(0, 1), text, sigma, generator)
            low_FCHW = window.cut(low_CFHW.transpose(0, 1))
        else:
            low_FCHW = self._encoder.encode_clip(functional.avg_pool2d(pixel_TCHW, factor)[None])[0]
        net = self._upsamplers[factor]
        latent_FCHW = net(low_FCHW[None], net.init_memory())[0]
        return SeenWindow(latent_FCHW=latent_FCHW, pixel_TCHW=pixel_TCHW, origin=origin)


def check_shares(windows: PairsConfig, enlarged: float) -> None:
    """Raises BadConfig where ``enlarged`` is negative or more than ``remade`` leaves."""
    if enlarged < 0 or windows.remade + enlarged > 1:
        raise BadConfig(
            f"enlarged is not negative, and at most 1 with remade, unlike {enlarged} and {windows.remade}",
            param="enlarged",
        )


@torch.no_grad()
def decoded_quality(decoder: PatchDecoder, windows: Iterable[SeenWindow]) -> dict[str, float]:
    """PSNR in dB, and how much more changes from frame to frame between latent frames than within them, as a multiple
    of the same in the drawn pictures: 1 where motion is even. Apart by where the latents come from."""
    measures: dict[str, list[float]] = defaultdict(list)
    for window in windows:
        made_TCHW = decoder.decode(window.latent_FCHW[None], decoder.init_memory())[0, UNTRIMMED_FRAMES:]
        measures[f"psnr_{window.origin}"].append(psnr(made_TCHW - window.pixel_TCHW))
        drawn, made = unevenness(window.pixel_TCHW), unevenness(made_TCHW)
        if drawn is not None and made is not None:
            measures[f"jolt_{window.origin}"].append(made / drawn)
    return {name: sum(values) / len(values) for name, values in measures.items()}


def unevenness(pixel_TCHW: Tensor) -> float | None:
    """Mean change from frame to frame between latent frames, as a multiple of that within them; None of a still."""
    change_T = pixel_TCHW.diff(dim=0).abs().mean(dim=(1, 2, 3))
    # The first latent frame stands for one picture alone.
    between_T = torch.arange(change_T.shape[0]) % PATCH_FRAMES == 0
    within = float(change_T[~between_T].mean())
    return float(change_T[between_T].mean()) / within if within > _STILL else None
