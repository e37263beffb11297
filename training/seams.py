"""Stage ``seams``: the linear map that mends the seams between the generator's tokens, in closed form.

Rendered clips are put back into noise and remade by the multi-step generator, which leaves the scene but draws its
tokens anew, as the few-step one does; from those and the rendered ones the map follows by least squares. It takes
minutes and changes nothing else in the generator's weights. Nothing is kept of a run that was killed: the next one
starts over, as `patches` does.

Shapes: C channels, F latent frames, H W latent rows and columns, N frames.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchEncoder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.weights import BASE_FILE, load_file
from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.loop import StageConfig, stop_on_signal
from ultraflash.training.patches import export_all, load_encoder, to_pixels
from ultraflash.training.remaking import Remaker, draw_sigma
from ultraflash.training.run_log import RunLog
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene

STARTS_WITHIN_S = 4.0
"""Clips begin at most so far into their scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamsConfig(StageConfig):
    """What the map is fitted to. A step is one rendered clip.

    Args:
        preset: whose generator's seams are mended.
        blocks: blocks of a clip, the later of which see the marred ones before them.
        sigmas: least and largest noise level that clips are remade from. From more noise one step makes a mean of many
            pictures, and the map would learn to expect that.
        channels: how many of the first channels are changed, see `SeamMender.fit`.
        ridge: see there.
        test_clips: clips of the test split to measure on.
    """

    preset: str = "mini"
    blocks: int = 2
    sigmas: tuple[float, float] = (0.4, 0.7)
    channels: int = 6
    ridge: float = 0.01
    test_clips: int = 20

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if min(self.blocks, self.channels, self.test_clips) < 1:
            raise BadConfig("blocks, channels and test_clips start at 1")
        if not 0 < self.sigmas[0] <= self.sigmas[1] <= 1:
            raise BadConfig("sigmas rise in (0, 1]", param="sigmas")


class RemadeClips:
    """Rendered clips and what the generator makes of them."""

    def __init__(self, config: SeamsConfig, preset: Preset, weights: Path) -> None:
        """Load the networks. Raises MissingWeights."""
        self._config, self._base = config, preset.base
        self._encoder: PatchEncoder = load_encoder(preset.decoder, weights)
        self._remake = Remaker(preset.base, weights)
        self._text = MiniLMEncoder()

    def __call__(self, split: str, number: int) -> tuple[Tensor, Tensor]:
        """Remade and rendered latents of clip ``number``, each (F, C, H, W)."""
        config, base = self._config, self._base
        generator = counter_generator(config.seed, "seams", split, number)
        scene = sample_scene(counter_seed(config.seed, "seams scene", split, number), split)
        side = self._encoder.config.patch
        frames_THWC = render(
            scene,
            frames=PATCH_FRAMES * config.blocks * base.block_frames - UNTRIMMED_FRAMES,
            height=base.rows * side,
            width=base.cols * side,
            start_s=float(torch.rand((), generator=generator)) * STARTS_WITHIN_S,
        )
        with torch.no_grad():
            rendered_FCHW = self._encoder.encode_clip(to_pixels(frames_THWC)[None])[0]
        sigma = draw_sigma(config.sigmas, generator)
        text = self._text.encode(caption(scene, number))
        remade_CFHW = self._remake(rendered_FCHW.transpose(0, 1), text, sigma, generator)
        return remade_CFHW.transpose(0, 1), rendered_FCHW


def seam_steps(latent_NCHW: Tensor, side: int) -> tuple[float, float]:
    """Mean absolute step of the first channel between neighbours in a row: across seams of tokens ``side`` wide, and
    within tokens. Where nothing is wrong with the seams the two are alike."""
    step_NHW = latent_NCHW[:, 0].diff(dim=2).abs()
    across = torch.arange(step_NHW.shape[2]) % side == side - 1
    return float(step_NHW[..., across].mean()), float(step_NHW[..., ~across].mean())


def run(config: SeamsConfig, run_dir: Path) -> bool:
    """Fit the map and put it into the generator's file; False when a signal came first."""
    preset = load_preset(config.preset)
    if not preset.base.dit.mend_seams:
        raise BadConfig(f"the base of {preset.name} has no mend_seams", param="preset")
    folder = run_dir / "weights"
    net = CausalDiT(preset.base.dit)
    load_file(net, folder / BASE_FILE)
    assert net.seams is not None
    with RunLog(run_dir / "seams", stage="seams", resumed_at=0) as log, stop_on_signal() as stop:
        clip = RemadeClips(config, preset, folder)
        clips = [("train", number) for number in range(config.steps)]
        clips += [("test", number) for number in range(config.test_clips)]
        made: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "test": []}
        started = time.monotonic()
        for done, (split, number) in enumerate(clips, start=1):
            if stop.is_set():
                return False
            made[split].append(clip(split, number))
            elapsed = time.monotonic() - started
            log.progress(done / len(clips), elapsed=elapsed, text=f"{done} of {len(clips)} clips")
        remade_NCHW, rendered_NCHW = (torch.cat(each) for each in zip(*made["train"], strict=True))
        net.seams.fit(remade_NCHW, rendered_NCHW, channels=config.channels, ridge=config.ridge)
        measures = evaluate(net, *(torch.cat(each) for each in zip(*made["test"], strict=True)))
        log.say(", ".join(f"{name} {value:.3f}" for name, value in measures.items()))
        report = (json.dumps(measures, indent=2) + "\n").encode()
        write_atomically(run_dir / "seams" / "evaluation.json", report)
        export_all({BASE_FILE: net}, folder, config.export_to, log)
    return True


@torch.no_grad()
def evaluate(net: CausalDiT, remade_NCHW: Tensor, rendered_NCHW: Tensor) -> dict[str, float]:
    """Steps across seams as multiples of those within tokens, and squared errors of latents, before and after."""
    assert net.seams is not None
    mended_NCHW = net.seams(remade_NCHW.unsqueeze(2)).squeeze(2)
    measures = {}
    for name, latent_NCHW in {
        "rendered": rendered_NCHW,
        "remade": remade_NCHW,
        "mended": mended_NCHW,
    }.items():
        across, within = seam_steps(latent_NCHW, net.seams.side)
        measures[f"seams_{name}"] = across / within
    for name, latent_NCHW in {"remade": remade_NCHW, "mended": mended_NCHW}.items():
        measures[f"error_{name}"] = float((latent_NCHW - rendered_NCHW).square().mean())
    return measures
