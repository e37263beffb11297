"""Stage ``patches``: the linear half of the autoencoder, by PCA of rendered clips.

It takes a minute, and the encoder has no other half, so the latents are final from here on.

Shapes: B batch, T pixel frames, C channels, H W rows and columns, N patches, P values of a patch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.patch_autoencoder import (
    MID_GREY,
    PatchAutoencoder,
    PatchConfig,
    PatchEncoder,
    patchify,
    with_first_repeated,
)
from ultraflash.models.weights import DECODER_FILE, ENCODER_FILE, load_file, stored_dtype, write_manifest
from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.loop import StageConfig, stop_on_signal
from ultraflash.training.pca import PatchStatistics, latent_scale
from ultraflash.training.run_log import RunLog
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene

LINEAR = PatchConfig(encoder_channels=(), decoder_channels=(), decoder_neighbours=64)
"""Shape of an autoencoder that is linear both ways; its decoder sees neighbours."""

WITH_RESIDUAL = PatchConfig(encoder_channels=(), decoder_neighbours=16)
"""The same with convolutions in the decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchesConfig(StageConfig):
    """What the PCA is fitted to. A step is one rendered clip.

    Args:
        patch: shape of the networks. Without encoder residual, latents don't change after this stage.
        frames: pixel frames of a clip, 4n - 3.
        heights: heights of the whole pictures, in turn.
        window: rows and columns that are drawn of each.
        share: share of the patches that is used.
        spectrum_power: see `pca.latent_scale`.
    """

    patch: PatchConfig = LINEAR
    frames: int = 17
    heights: tuple[int, ...] = (256, 512, 256, 1024)
    window: tuple[int, int] = (256, 448)
    share: float = 0.5
    spectrum_power: float = 0.5

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if self.frames % 4 != 1:
            raise BadConfig("frames is 4n - 3", param="frames")


def to_pixels(frames_THWC: Tensor) -> Tensor:
    """uint8 frames (T, H, W, 3), or a batch of them, to float32 (T, 3, H, W) in [0, 1]."""
    return frames_THWC.movedim(-1, -3).float() / 255


def load_encoder(config: PatchConfig, folder: Path) -> PatchEncoder:
    """The exported encoder in ``folder``, in float32. Raises MissingWeights where there is none."""
    path = folder / ENCODER_FILE
    if not path.is_file():
        raise MissingWeights(f"{path} is missing; make it with: ultraflash train patches")
    encoder = PatchEncoder(config)
    load_file(encoder, path)
    return encoder.eval()


def export(module: nn.Module, path: Path) -> Path:
    """Write a network's weights as they are shipped; atomically, since a server may have the old file mapped."""
    state = module.state_dict()
    tensors = {name: tensor.to(stored_dtype(tensor)).cpu().contiguous() for name, tensor in state.items()}
    write_atomically(path, save(tensors))
    return path


def export_all(networks: Mapping[str, nn.Module], weights: Path, export_to: str | None, log: RunLog) -> None:
    """Write networks, by the names of their files, to ``weights`` and, with its manifest, to ``export_to``."""
    for folder in (weights, *((Path(export_to),) if export_to else ())):
        for name, network in networks.items():
            log.say(f"wrote {export(network, folder / name)}")
    if export_to:
        write_manifest(Path(export_to))


def run(config: PatchesConfig, run_dir: Path) -> bool:
    """Fit and export encoder and decoder; False when a signal came first. Nothing to do where they are."""
    folder = run_dir / "weights"
    with RunLog(run_dir / "patches", stage="patches", resumed_at=0) as log, stop_on_signal() as stop:
        if (folder / ENCODER_FILE).is_file() and (folder / DECODER_FILE).is_file():
            log.say(f"already fitted: {folder / ENCODER_FILE}")
            return True
        torch.manual_seed(counter_seed(config.seed, "patches"))
        autoencoder = PatchAutoencoder(config.patch)
        statistics = PatchStatistics(autoencoder.encoder.embed.in_features, centre=MID_GREY)
        started = time.monotonic()
        for number in range(config.steps):
            if stop.is_set():
                return False
            patches_NP = clip_patches(config, number)
            generator = counter_generator(config.seed, "patches", number)
            kept_N = torch.rand(patches_NP.shape[0], generator=generator) < config.share
            statistics.add(patches_NP[kept_N])
            done, elapsed = (number + 1) / config.steps, time.monotonic() - started
            log.progress(done, elapsed=elapsed, text=f"{statistics.count} patches")
        basis, kept = statistics.basis(config.patch.latent_channels)
        autoencoder.init_from_pca(basis, latent_scale(basis.sigma_C, power=config.spectrum_power))
        log.say(f"{config.patch.latent_channels} channels keep {kept:.2%} of the variance")
        networks = {DECODER_FILE: autoencoder.decoder, ENCODER_FILE: autoencoder.encoder}
        export_all(networks, folder, config.export_to, log)
    return True


def clip_patches(config: PatchesConfig, number: int) -> Tensor:
    """All patches (N, P) of rendered clip ``number``, pixels in [0, 1]."""
    rows, cols = config.window
    height = config.heights[number % len(config.heights)]
    width = height * cols // rows
    generator = counter_generator(config.seed, "window", number)
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - cols + 1, (), generator=generator))
    frames_THWC = render(
        sample_scene(counter_seed(config.seed, "patches", number)),
        frames=config.frames,
        height=height,
        width=width,
        start_s=float(torch.rand((), generator=generator)) * 4,
        crop=(top, left, rows, cols),
    )
    pixels_BTCHW = with_first_repeated(to_pixels(frames_THWC)[None])
    return patchify(pixels_BTCHW, config.patch.tile_frames).flatten(0, -2)
