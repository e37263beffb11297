"""Stage ``upsampler``: one latent upsampler for each factor, trained on pairs of encodings of one picture.

Every network starts as the best linear upsampler that its convolutions can be, found by least squares; training only
has to add what is not linear.

Shapes: B batch, T latent frames, C channels, H W rows and columns, N positions, K inputs of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import MemoryBlock
from ultraflash.models.least_squares import NormalEquations, with_constant
from ultraflash.models.patch_autoencoder import PatchConfig, PatchDecoder
from ultraflash.models.upsampler import LatentUpsampler, UpsamplerConfig
from ultraflash.models.weights import DECODER_FILE, load_file, upsampler_file
from ultraflash.training import patches
from ultraflash.training.linear_pixels import LinearPixels
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.pairs import Pairs, PairsConfig, PairsReader, make_pairs, pairs_folder
from ultraflash.training.patches import LINEAR
from ultraflash.training.placement import bfloat16_products
from ultraflash.training.sample_sheet import tile, to_uint8

PAIRS = Path("upsampler") / "pairs"
_RIDGE = 1e-3
_OFFSET_DEVIATIONS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerStageConfig(StageConfig):
    """How the upsamplers are trained; ``minutes`` are shared out evenly among them.

    Args:
        patch: shape of the autoencoder.
        pairs: what they are trained on, and with its windows the factors.
        mid_channels, blocks: shape of the networks.
        noise_level: largest deviation of noise on the low latents, which a generator will make.
        fit_pairs: pairs that the linear start is fitted to.
        workers: processes that draw the pairs.
    """

    patch: PatchConfig = LINEAR
    pairs: PairsConfig = field(default_factory=PairsConfig)
    mid_channels: int = 48
    blocks: int = 4
    noise_level: float = 0.1
    fit_pairs: int = 128
    workers: int = 2

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if self.mid_channels < self.patch.latent_channels:
            raise BadConfig("mid_channels must hold the latent's channels", param="mid_channels")


class UpsamplerStage:
    """Training of the upsampler of one factor. See `loop.Stage`."""

    def __init__(self, config: UpsamplerStageConfig, run_dir: Path, factor: int) -> None:
        self.file = upsampler_file(factor)
        self.name = Path(self.file).stem
        self.config, self.factor = config, factor
        self.weights = run_dir / "weights"
        self.pairs, self.held_out = (
            PairsReader(pairs_folder(run_dir / PAIRS, factor, split), seed=config.seed)
            for split in ("train", "test")
        )
        self.pixels = LinearPixels(config.patch, self.weights, device=config.device)

    def build(self) -> nn.Module:
        """The upsampler, as its linear start."""
        config = self.config
        self.net = LatentUpsampler(
            UpsamplerConfig(
                channels=config.patch.latent_channels,
                mid_channels=config.mid_channels,
                blocks=config.blocks,
                factor=self.factor,
            )
        )
        start_linear(self.net, self.pairs.take(list(range(min(config.fit_pairs, len(self.pairs))))))
        return self.net

    def batch(self, step: int) -> Pairs:
        """Pairs of the factor."""
        return self.pairs.batch(step, self.config.batch_size)

    def loss(self, batch: Pairs) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Squared error of the pixels that the latents stand for."""
        level = self.config.noise_level * torch.rand(batch.low.shape[0], 1, 1, 1, 1, device=batch.low.device)
        low_BTCHW = batch.low + level * torch.randn_like(batch.low)
        error_BTCHW = self.net(low_BTCHW, self.net.init_memory()).float() - batch.high
        return self.pixels.squared_error(error_BTCHW.transpose(1, 2)), {
            "latent_mse": error_BTCHW.detach().square().mean()
        }

    def sample(self, step: int) -> Tensor:
        """Rows of held-out pairs, decoded: low (enlarged), bicubic latents, the upsampler, high."""
        decoder = PatchDecoder(self.config.patch)
        load_file(decoder, self.weights / DECODER_FILE)
        decoder.eval()
        pairs = self.held_out.take(list(range(min(3, len(self.held_out)))))
        columns = [pairs.low, bicubic(pairs.low, self.factor), self._upsample(pairs.low), pairs.high]
        pictures = [decoder.decode(latent_BTCHW, decoder.init_memory())[:, -1] for latent_BTCHW in columns]
        pictures[0] = functional.interpolate(pictures[0], scale_factor=float(self.factor), mode="nearest")
        return tile(
            [[to_uint8(each_BCHW[row]) for each_BCHW in pictures] for row in range(pairs.low.shape[0])]
        )

    def evaluate(self) -> dict[str, float]:
        """Mean squared error of held-out latents, which have about unit variance; also of bicubic enlargement."""
        pairs = self.held_out.take(list(range(len(self.held_out))))
        return {
            "latent_mse": float((self._upsample(pairs.low) - pairs.high).square().mean()),
            "latent_mse_bicubic": float((bicubic(pairs.low, self.factor) - pairs.high).square().mean()),
        }

    def export(self, folder: Path) -> list[Path]:
        """One file, named by the factor."""
        return [patches.export(self.net, folder / self.file)]

    def _upsample(self, low_BTCHW: Tensor) -> Tensor:
        with bfloat16_products(self.config.device, wanted=self.config.autocast):
            high_BTCHW: Tensor = self.net(low_BTCHW.to(self.config.device), self.net.init_memory())
        return high_BTCHW.float().cpu()


def bicubic(latent_BTCHW: Tensor, factor: int) -> Tensor:
    """Enlarge latents as if they were pictures."""
    flat_NCHW = latent_BTCHW.flatten(0, 1)
    enlarged_NCHW = functional.interpolate(flat_NCHW, scale_factor=float(factor), mode="bicubic")
    return enlarged_NCHW.unflatten(0, latent_BTCHW.shape[:2])


@torch.no_grad()
def start_linear(net: LatentUpsampler, pairs: Pairs) -> None:
    """Make ``net`` the linear upsampler that fits ``pairs`` best, its blocks the identity.

    The latents travel in the first channels, lifted by some deviations so that ReLU leaves them alone; the last
    convolution lowers them again. The other channels keep their random start.
    """
    channels = net.config.channels
    convs = [cast(nn.Conv2d, conv) for conv in net.pre_shuffle]
    targets = [pairs.high] if len(convs) == 1 else [pairs.middle, pairs.high]
    if len(targets) != len(convs):
        raise BadConfig(
            f"pairs have one scale between low and high; a factor of {net.config.factor} has more"
        )
    current_NCHW = pairs.low.flatten(0, 1)
    for conv, target_BTCHW in zip(convs, targets, strict=True):
        target_NCHW = target_BTCHW.flatten(0, 1)
        factor = target_NCHW.shape[-1] // current_NCHW.shape[-1]
        weight, bias = fit_convolution(current_NCHW, functional.pixel_unshuffle(target_NCHW, factor))
        taken = current_NCHW.shape[1]
        conv.weight[: channels * factor**2] = 0
        conv.weight[: channels * factor**2, :taken] = weight
        conv.bias[: channels * factor**2] = bias
        predicted_NCHW = functional.conv2d(current_NCHW, weight, bias, padding=1)
        current_NCHW = functional.pixel_shuffle(predicted_NCHW, factor)
    offset_C = _OFFSET_DEVIATIONS * pairs.high.std(dim=(0, 1, 3, 4))
    convs[-1].bias[: channels * factor**2] += offset_C.repeat_interleave(factor**2)
    for block in net.blocks:
        for parameter in cast(MemoryBlock, block).conv[-1].parameters():
            nn.init.zeros_(parameter)
    nn.init.zeros_(net.final.weight)
    net.final.weight[:, :channels, 1, 1] = torch.eye(channels)
    net.final.bias.copy_(-offset_C)


def fit_convolution(x_NCHW: Tensor, y_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (D, C, 3, 3) and bias (D,) of the padded 3x3 convolution from x to y with the least squared error."""
    inputs, outputs = x_NCHW.shape[1], y_NCHW.shape[1]
    x_NK = functional.unfold(x_NCHW, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    sums = NormalEquations()
    sums.add(with_constant(x_NK), y_NCHW.permute(0, 2, 3, 1).flatten(0, 2).double())
    # A little ridge: neighbours' brightness is nearly the same number.
    solution_KD = sums.solve(_RIDGE)
    return solution_KD[:-1].T.reshape(outputs, inputs, 3, 3), solution_KD[-1]


def run(config: UpsamplerStageConfig, run_dir: Path) -> bool:
    """Draw the pairs and train one network after the other; returns whether all are done."""
    made = make_pairs(
        config.pairs,
        run_dir / PAIRS,
        patch=config.patch,
        weights=run_dir / "weights",
        seed=config.seed,
        workers=config.workers,
    )
    factors = config.pairs.factors
    each = config.shared_by(len(factors))
    return made and all(train(UpsamplerStage(each, run_dir, factor), each, run_dir) for factor in factors)
