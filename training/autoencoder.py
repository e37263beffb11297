"""Stage ``autoencoder``: the decoder's convolutional residual, beside the linear patches that stay as they are.

The encoder is not touched, so latents that were cached before remain valid. Half of the latents get some noise: what
the decoder will see was made by networks.

Shapes: B batch, T pixel frames, C channels, H W rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.errors import BadConfig
from ultraflash.models.patch_autoencoder import UNTRIMMED_FRAMES, PatchConfig, PatchDecoder
from ultraflash.models.weights import DECODER_FILE, load_file
from ultraflash.training import patches
from ultraflash.training.clip_pool import ClipPool, PoolConfig, make_pools
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.patches import WITH_RESIDUAL, load_encoder, to_pixels
from ultraflash.training.placement import bfloat16_products
from ultraflash.training.real_clips import find_clips, read_frames
from ultraflash.training.sample_sheet import tile, to_uint8
from ultraflash.training.seeding import counter_seed
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig(StageConfig):
    """How the decoder is trained.

    Args:
        patch: shape of the networks, as in stage ``patches``.
        pool: the clips to train on.
        clips: folder of real videos, if there is one.
        real_share: share of them in a batch.
        gradient_weight: weight of the error of spatial and temporal differences, beside that of pixels.
        noise_share, noise_level: share of clips whose latents get noise, and its largest deviation.
        test_clips, test_height: rendered clips of the test split to measure on, at 7:4.
        workers: processes that draw the pool.
    """

    patch: PatchConfig = WITH_RESIDUAL
    pool: PoolConfig = field(default_factory=PoolConfig)
    clips: str | None = None
    real_share: float = 0.3
    gradient_weight: float = 0.5
    noise_share: float = 0.5
    noise_level: float = 0.15
    test_clips: int = 8
    test_height: int = 512
    workers: int = 2

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if not self.patch.decoder_channels:
            raise BadConfig("this stage trains convolutions: patch wants decoder_channels", param="patch")
        if self.test_clips < 1 or self.test_height % 64:
            raise BadConfig("test_clips starts at 1, and test_height is a multiple of 64")
        if not 0 <= self.real_share < 1 or not 0 <= self.noise_share <= 1:
            raise BadConfig("real_share lies in [0, 1), noise_share in [0, 1]")


class AutoencoderStage:
    """See `loop.Stage`."""

    name = "autoencoder"

    def __init__(self, config: AutoencoderConfig, run_dir: Path, pools: list[Path]) -> None:
        self.config = config
        self.weights = run_dir / "weights"
        self.pool = ClipPool(pools, seed=config.seed)
        self.shares = [1.0] if len(pools) == 1 else [1 - config.real_share, config.real_share]

    def build(self) -> nn.Module:
        """The decoder as the PCA left it, or as an earlier run of this stage exported it."""
        self.encoder = load_encoder(self.config.patch, self.weights).to(self.config.device)
        self.decoder = PatchDecoder(self.config.patch)
        load_file(self.decoder, self.weights / DECODER_FILE)
        self.decoder.requires_grad_(False)
        assert self.decoder.residual is not None
        self.decoder.residual.requires_grad_(True)
        return self.decoder

    def batch(self, step: int) -> Tensor:
        """Pixels (B, T, 3, H, W) in [0, 1]."""
        frames_BTHWC = self.pool.batch(step, self.config.batch_size, shares=self.shares)
        return to_pixels(frames_BTHWC)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Absolute error of pixels and of their differences; logs PSNR and what the linear part alone has."""
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            latent_BTCHW = self.encoder.encode_clip(batch)
        level_B = torch.rand(batch.shape[0], device=batch.device) * self.config.noise_level
        level_B = level_B * (torch.rand_like(level_B) < self.config.noise_share)
        noise_BTCHW = torch.randn_like(latent_BTCHW) * level_B.view(-1, 1, 1, 1, 1)
        decoded_BTCHW = self.decoder(latent_BTCHW + noise_BTCHW, self.decoder.init_memory())
        error_BTCHW = decoded_BTCHW[:, UNTRIMMED_FRAMES:] - batch
        pixel = error_BTCHW.abs().mean()
        edge = sum(
            (error_BTCHW.diff(dim=axis).abs().mean() for axis in (1, 3, 4)),
            start=torch.zeros((), device=batch.device),
        )
        metrics: dict[str, Tensor | float] = {"psnr": psnr(error_BTCHW.detach()), "pixel": pixel.detach()}
        return pixel + self.config.gradient_weight / 3 * edge, metrics

    def sample(self, step: int) -> Tensor:
        """Rows of test clips: the picture, the linear part alone, the decoder."""
        rows = []
        for number in range(min(4, self.config.test_clips)):
            frames_TCHW = self._test_clip(number)
            pictures = [frames_TCHW, self._decode(frames_TCHW, linear=True), self._decode(frames_TCHW)]
            rows.append([to_uint8(picture_TCHW[-1]) for picture_TCHW in pictures])
        return tile(rows)

    def evaluate(self) -> dict[str, float]:
        """Mean PSNR over clips, rendered and, where there are any, real ones; ``linear`` without the residual."""
        clips = {"rendered": [self._test_clip(number) for number in range(self.config.test_clips)]}
        if self.config.clips is not None:
            clips["real"] = [held_out_clip(file) for file in find_clips(Path(self.config.clips))[1]]
        measures = {}
        for name, each in clips.items():
            for kind, linear in (("", False), ("_linear", True)):
                values = [psnr(self._decode(clip_TCHW, linear=linear) - clip_TCHW) for clip_TCHW in each]
                measures[f"psnr_{name}{kind}"] = sum(values) / len(values)
        return measures

    def export(self, folder: Path) -> list[Path]:
        """The decoder; the encoder is where it was."""
        return [patches.export(self.decoder, folder / DECODER_FILE)]

    def _test_clip(self, number: int) -> Tensor:
        height = self.config.test_height
        scene = sample_scene(counter_seed(0, "autoencoder test", number), "test")
        return to_pixels(render(scene, frames=self.config.pool.frames, height=height, width=height * 7 // 4))

    def _decode(self, frames_TCHW: Tensor, *, linear: bool = False) -> Tensor:
        """Encode and decode (T, 3, H, W), with the whole decoder or its linear part."""
        latent_BTCHW = self.encoder.encode_clip(frames_TCHW[None].to(self.config.device))
        residual = self.decoder.residual
        if linear:
            self.decoder.residual = None
        try:
            with bfloat16_products(self.config.device, wanted=self.config.autocast):
                decoded_BTCHW = self.decoder.decode(latent_BTCHW, self.decoder.init_memory())
        finally:
            self.decoder.residual = residual
        return decoded_BTCHW[0, UNTRIMMED_FRAMES:].cpu()


def psnr(error: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of an error of pixels in [0, 1]."""
    return -10 * math.log10(max(float(error.float().square().mean()), 1e-10))


def held_out_clip(file: Path) -> Tensor:
    """13 frames of a video, (13, 3, H, W) in [0, 1], halved until they are at most 960 high, cut to multiples of 16."""
    frames_TCHW = read_frames(file, count=13).float() / 255
    while frames_TCHW.shape[2] > 960:
        frames_TCHW = functional.avg_pool2d(frames_TCHW, 2)
    height, width = (size // 16 * 16 for size in frames_TCHW.shape[2:])
    return frames_TCHW[:, :, :height, :width]


def run(config: AutoencoderConfig, run_dir: Path) -> bool:
    """Draw the pool and train; returns whether the stage is done."""
    clips = None if config.clips is None else Path(config.clips)
    folder = run_dir / "autoencoder" / "pool"
    seed = counter_seed(config.seed, "autoencoder pool")
    pools = make_pools(config.pool, folder, seed=seed, split="train", clips=clips, workers=config.workers)
    return pools is not None and train(AutoencoderStage(config, run_dir, pools), config, run_dir)
