"""Stage ``decoder``: what a latent's neighbours tell the linear decoder, in closed form.

A latent keeps its patch apart from the others, so pictures break at the edges of patches, in space as a grid and in
time as a jolt every fourth frame. By least squares over pictures the neighbours make up for much of it. Some of the
latents are the encoder's, others an upsampler's, and some were remade by the multi-step generator before; not many, and
not of much noise, since latents that have lost what they were of draw the map to blurred pictures. It takes minutes and
changes nothing else in the decoder's weights. Nothing is kept of a run that was killed: the next one starts over.

Shapes: T pixel frames, F latent frames, C channels, H W rows and columns, M patches, P values of a patch, K inputs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig
from ultraflash.models.least_squares import NormalEquations
from ultraflash.models.patch_autoencoder import (
    Neighbours,
    PatchDecoder,
    patchify,
    with_first_repeated,
)
from ultraflash.models.preset import load_preset
from ultraflash.models.weights import DECODER_FILE, load_file
from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.loop import StageConfig, stop_on_signal
from ultraflash.training.pairs import PairsConfig
from ultraflash.training.patches import export_all
from ultraflash.training.run_log import RunLog
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.seen_windows import SeenWindow, SeenWindows, check_shares, decoded_quality


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderStageConfig(StageConfig):
    """What the map is fitted to. A step is one window of a rendered clip, at the factors of ``windows`` in turn.

    Args:
        preset: whose decoder it is.
        windows: what is drawn; its ``remade`` is the share of windows that come by generator and upsampler. How many
            make a shard has no meaning here.
        enlarged: share of windows that come by an upsampler alone.
        kept: share of the patches of a window that is used.
        ridge: see :meth:`ultraflash.models.least_squares.NormalEquations.solve_in_two`.
        test_windows: windows of the test split to measure on.
    """

    preset: str = "mini"
    windows: PairsConfig = field(
        default_factory=lambda: PairsConfig(
            latent_frames=6,
            windows=((2, 16, 16), (4, 10, 10), (6, 8, 8)),
            with_text=True,
            remade=0.25,
            remade_sigmas=(0.2, 0.5),
        )
    )
    enlarged: float = 0.4
    kept: float = 0.3
    ridge: float = 1e-3
    test_windows: int = 24

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if not 0 < self.kept <= 1:
            raise BadConfig("kept lies in (0, 1]", param="kept")
        if self.test_windows < 1 or self.ridge < 0:
            raise BadConfig("test_windows starts at 1, and ridge is not negative")
        check_shares(self.windows, self.enlarged)


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
    decoder.neighbours.mute()
    with RunLog(run_dir / "decoder", stage="decoder", resumed_at=0) as log, stop_on_signal() as stop:
        seed = counter_seed(config.seed, "decoder")
        windows = SeenWindows(config.windows, preset, folder, seed=seed, enlarged=config.enlarged)
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
        before = decoded_quality(decoder, tests)
        with torch.no_grad():
            reduce_KR, expand_RP = sums.solve_in_two(config.ridge, preset.decoder.decoder_neighbours)
            decoder.neighbours.reduce.weight.copy_(reduce_KR.T)
            decoder.neighbours.expand.weight.copy_(expand_RP.T)
        measures = {f"{name}_before": value for name, value in before.items()} | decoded_quality(
            decoder, tests
        )
        log.say(", ".join(f"{name} {value:.3f}" for name, value in sorted(measures.items())))
        report = (json.dumps(measures, indent=2) + "\n").encode()
        write_atomically(run_dir / "decoder" / "evaluation.json", report)
        export_all({DECODER_FILE: decoder}, folder, config.export_to, log)
    return True
