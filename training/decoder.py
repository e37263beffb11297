"""Stage ``decoder``: what a latent's neighbours tell the linear decoder, in closed form.

A latent keeps its patch apart from the others, so pictures break at the edges of patches, in space as a grid and in
time as a jolt every fourth frame. By least squares over pictures the neighbours make up for much of it. Some of the
latents are the encoder's; the others were remade by the generator and enlarged, which is most of what lies before a
stream's decoder (seams are not mended and super-resolution, which changes little, is left out). It takes minutes and
changes nothing else in the decoder's weights. Nothing is kept of a run that was killed: the next one starts over.

Shapes: T pixel frames, F latent frames, C channels, H W rows and columns, M patches, P values of a patch, K inputs.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig
from ultraflash.models.least_squares import NormalEquations
from ultraflash.models.patch_autoencoder import (
    PATCH_FRAMES,
    UNTRIMMED_FRAMES,
    Neighbours,
    PatchDecoder,
    patchify,
    with_first_repeated,
)
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.weights import DECODER_FILE, load_file, upsampler_file
from ultraflash.training.autoencoder import psnr
from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.loop import StageConfig, stop_on_signal
from ultraflash.training.pairs import PairsConfig, draw_window
from ultraflash.training.patches import export_all, load_encoder, to_pixels
from ultraflash.training.remaking import Remaker, draw_sigma
from ultraflash.training.run_log import RunLog
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.vista.captions import caption

_STILL = 1e-4
"""Mean change of a frame below which a clip counts as a still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderStageConfig(StageConfig):
    """What the map is fitted to. A step is one window of a rendered clip, at the factors of ``windows`` in turn.

    Args:
        preset: whose decoder it is.
        windows: what is drawn; its ``remade`` is the share of windows that come by generator and upsampler. How many
            make a shard has no meaning here.
        kept: share of the patches of a window that is used.
        ridge: see :meth:`ultraflash.models.least_squares.NormalEquations.solve`.
        test_windows: windows of the test split to measure on.
    """

    preset: str = "mini"
    windows: PairsConfig = field(
        default_factory=lambda: PairsConfig(
            latent_frames=6, windows=((2, 16, 16), (4, 10, 10), (6, 8, 8)), with_text=True, remade=0.5
        )
    )
    kept: float = 0.3
    ridge: float = 1e-3
    test_windows: int = 24

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if not 0 < self.kept <= 1:
            raise BadConfig("kept lies in (0, 1]", param="kept")
        if self.test_windows < 1:
            raise BadConfig("test_windows starts at 1", param="test_windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWindow:
    """Latents (F, C, H, W), and the pixels (T, 3, H, W) that it should make of them."""

    latent_FCHW: Tensor
    pixel_TCHW: Tensor
    remade: bool


class SeenWindows:
    """Draws windows, and takes some of them through generator and upsampler."""

    def __init__(self, config: DecoderStageConfig, preset: Preset, weights: Path) -> None:
        """Load the networks. Raises MissingWeights."""
        self._config = config
        self._encoder = load_encoder(preset.decoder, weights)
        self._remake = Remaker(preset.base, weights)
        self._text = MiniLMEncoder()
        self._upsamplers: dict[int, LatentUpsampler] = {}
        for factor in config.windows.factors:
            net = LatentUpsampler(preset.upsampler[factor])
            load_file(net, weights / upsampler_file(factor))
            self._upsamplers[factor] = net.eval()

    @torch.no_grad()
    def __call__(self, split: str, number: int) -> SeenWindow:
        """Window ``number`` of a split."""
        config = self._config
        factor = config.windows.factors[number % len(config.windows.factors)]
        seed = counter_seed(config.seed, "decoder")
        window = draw_window(config.windows, factor, number, seed=seed, split=split)
        pixel_TCHW = to_pixels(window.draw(factor))
        generator = counter_generator(seed, "decoder window", split, number)
        remade = float(torch.rand((), generator=generator)) < config.windows.remade
        if not remade:
            latent_FCHW = self._encoder.encode_clip(pixel_TCHW[None])[0]
            return SeenWindow(latent_FCHW=latent_FCHW, pixel_TCHW=pixel_TCHW, remade=False)
        whole_FCHW = self._encoder.encode_clip(to_pixels(window.draw_whole())[None])[0]
        sigma = draw_sigma(config.windows.remade_sigmas, generator)
        text = self._text.encode(caption(window.scene, number))
        low_CFHW = self._remake(whole_FCHW.transpose(0, 1), text, sigma, generator)
        net = self._upsamplers[factor]
        latent_FCHW = net(window.cut(low_CFHW.transpose(0, 1))[None], net.init_memory())[0]
        return SeenWindow(latent_FCHW=latent_FCHW, pixel_TCHW=pixel_TCHW, remade=True)


@torch.no_grad()
def examples(decoder: PatchDecoder, window: SeenWindow) -> tuple[Tensor, Tensor]:
    """What the neighbours' map reads of every patch, (M, K), and what the decoder, whose map is zero, lacks, (M, P)."""
    latent_FCHW = window.latent_FCHW
    before_FCHW = torch.cat([latent_FCHW[:1], latent_FCHW[:-1]])
    x_MK = Neighbours.gather(latent_FCHW, before_FCHW).flatten(0, 2)
    made_BTCHW = decoder(latent_FCHW[None], decoder.init_memory())
    lacking_BTCHW = with_first_repeated(window.pixel_TCHW[None]) - made_BTCHW
    return x_MK, patchify(lacking_BTCHW, decoder.config.tile_frames).flatten(0, 3)


def run(config: DecoderStageConfig, run_dir: Path) -> bool:
    """Fit the map and put it into the decoder's file; False when a signal came first."""
    preset = load_preset(config.preset)
    if not preset.decoder.decoder_neighbours:
        raise BadConfig(f"the decoder of {preset.name} has no decoder_neighbours", param="preset")
    folder = run_dir / "weights"
    decoder = PatchDecoder(preset.decoder)
    load_file(decoder, folder / DECODER_FILE)
    assert decoder.neighbours is not None
    nn.init.zeros_(decoder.neighbours.linear.weight)
    with RunLog(run_dir / "decoder", stage="decoder", resumed_at=0) as log, stop_on_signal() as stop:
        windows = SeenWindows(config, preset, folder)
        sums = NormalEquations()
        started = time.monotonic()
        for number in range(config.steps):
            if stop.is_set():
                return False
            x_MK, y_MP = examples(decoder, windows("train", number))
            generator = counter_generator(config.seed, "decoder patches", number)
            kept_M = torch.rand(x_MK.shape[0], generator=generator) < config.kept
            sums.add(x_MK[kept_M], y_MP[kept_M])
            elapsed = time.monotonic() - started
            log.progress((number + 1) / config.steps, elapsed=elapsed, text=f"{number + 1} windows")
        tests = [windows("test", number) for number in range(config.test_windows)]
        before = evaluate(decoder, tests)
        with torch.no_grad():
            decoder.neighbours.linear.weight.copy_(sums.solve(config.ridge).T)
        measures = {f"{name}_before": value for name, value in before.items()} | evaluate(decoder, tests)
        log.say(", ".join(f"{name} {value:.3f}" for name, value in sorted(measures.items())))
        report = (json.dumps(measures, indent=2) + "\n").encode()
        write_atomically(run_dir / "decoder" / "evaluation.json", report)
        export_all({DECODER_FILE: decoder}, folder, config.export_to, log)
    return True


@torch.no_grad()
def evaluate(decoder: PatchDecoder, windows: list[SeenWindow]) -> dict[str, float]:
    """PSNR in dB, and how much more changes from frame to frame between latent frames than within them, as a multiple
    of the same in the drawn pictures: 1 where motion is even. Apart for encoded and for remade latents."""
    measures: dict[str, list[float]] = defaultdict(list)
    for window in windows:
        kind = "remade" if window.remade else "encoded"
        made_TCHW = decoder.decode(window.latent_FCHW[None], decoder.init_memory())[0, UNTRIMMED_FRAMES:]
        measures[f"psnr_{kind}"].append(psnr(made_TCHW - window.pixel_TCHW))
        drawn, made = unevenness(window.pixel_TCHW), unevenness(made_TCHW)
        if drawn is not None and made is not None:
            measures[f"jolt_{kind}"].append(made / drawn)
    return {name: sum(values) / len(values) for name, values in measures.items()}


def unevenness(pixel_TCHW: Tensor) -> float | None:
    """Mean change from frame to frame between latent frames, as a multiple of that within them; None of a still."""
    change_T = pixel_TCHW.diff(dim=0).abs().mean(dim=(1, 2, 3))
    # The first latent frame stands for one picture alone.
    between_T = torch.arange(change_T.shape[0]) % PATCH_FRAMES == 0
    within = float(change_T[~between_T].mean())
    return float(change_T[between_T].mean()) / within if within > _STILL else None
