"""Pairs of latents for the upsamplers: one picture, encoded at low and at high resolution.

Shards (see `shards`) hold float16 latents of N pairs: ``low`` (N, T, C, h, w), ``middle`` (N, T, C, s*h, s*w) and
``high`` (N, T, C, f*h, f*w), where f is the factor and s its first stage (the same as f where there is but one).

N pairs of a shard, B batch, T latent frames, C channels, h w rows and columns of the low grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.patch_autoencoder import PatchConfig
from ultraflash.models.upsampler import stage_factors
from ultraflash.models.weights import ENCODER_FILE, sha256_of
from ultraflash.training.patches import load_encoder, to_pixels
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import Shard, shard_paths
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene

_CELL = 16
_ASPECT = 7 / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """What a shard holds.

    Args:
        pairs_per_shard: N.
        latent_frames: T.
        cells: h and w, for each factor.
        base_rows: low rows of a whole picture; it is ``factor`` times as high when drawn.
        shards: shards to train on. One more is held out.
    """

    pairs_per_shard: int = 16
    latent_frames: int = 3
    cells: tuple[tuple[int, int], ...] = ((2, 12), (4, 10), (6, 8))
    base_rows: int = 16
    shards: int = 12

    def __post_init__(self) -> None:
        if min(self.pairs_per_shard, self.latent_frames, self.shards) < 1:
            raise BadConfig("pairs_per_shard, latent_frames and shards start at 1")
        if max(cells for _, cells in self.cells) > self.base_rows:
            raise BadConfig("a window is no larger than the picture")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Latents (B, T, C, rows, columns) of the same pictures, float32."""

    low: Tensor
    middle: Tensor
    high: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsMaker:
    """Draws high-resolution windows, shrinks them by area, and encodes them at every scale."""

    config: PairsConfig
    patch: PatchConfig
    weights: Path
    factor: int
    seed: int
    split: str

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes, but for the number of shards."""
        pairs = {name: value for name, value in asdict(self.config).items() if name != "shards"}
        source = {"factor": self.factor, "seed": self.seed, "split": self.split}
        return pairs | source | {"encoder_sha256": sha256_of(self.weights / ENCODER_FILE)}

    def open(self) -> Callable[[int], Shard]:
        """Load the encoder."""
        encoder = load_encoder(self.patch, self.weights)
        shrinks = {"low": self.factor, "middle": self.factor // stage_factors(self.factor)[0], "high": 1}

        @torch.no_grad()
        def make(number: int) -> Shard:
            latents: dict[str, list[Tensor]] = {name: [] for name in shrinks}
            first = number * self.config.pairs_per_shard
            for pair in range(first, first + self.config.pairs_per_shard):
                frames_TCHW = to_pixels(self._frames(pair))
                for name, shrink in shrinks.items():
                    small_TCHW = functional.avg_pool2d(frames_TCHW, shrink)
                    latents[name].append(encoder.encode_clip(small_TCHW[None])[0].half())
            return Shard(tensors={name: torch.stack(each) for name, each in latents.items()})

        return make

    def _frames(self, number: int) -> Tensor:
        """uint8 (T, H, W, 3): a window of picture ``number`` on the low grid's cells."""
        cells = dict(self.config.cells)[self.factor]
        generator = counter_generator(self.seed, "pairs window", self.factor, number)
        cell = _CELL * self.factor
        columns = int(self.config.base_rows * _ASPECT)
        top = int(torch.randint(self.config.base_rows - cells + 1, (), generator=generator)) * cell
        left = int(torch.randint(columns - cells + 1, (), generator=generator)) * cell
        return render(
            sample_scene(counter_seed(self.seed, "pairs scene", self.factor, number), self.split),
            frames=4 * self.config.latent_frames - 3,
            height=self.config.base_rows * cell,
            width=columns * cell,
            start_s=float(torch.rand((), generator=generator)) * 4,
            crop=(top, left, cells * cell, cells * cell),
        )


class PairsReader:
    """Pairs of a folder of shards, memory-mapped."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        """Open what is there. Raises MissingWeights for an empty folder."""
        self._seed = seed
        self._shards: list[dict[str, Tensor]] = []
        for path in shard_paths(folder):
            with safe_open(path, "pt") as shard:
                self._shards.append({name: shard.get_tensor(name) for name in ("low", "middle", "high")})
        if not self._shards:
            raise MissingWeights(f"no pairs in {folder}")
        self._index = [(i, j) for i, shard in enumerate(self._shards) for j in range(shard["low"].shape[0])]

    def __len__(self) -> int:
        return len(self._index)

    def take(self, numbers: list[int]) -> Pairs:
        """The pairs of these numbers."""
        picked = [self._index[number] for number in numbers]
        tensors = {
            name: torch.stack([self._shards[shard][name][pair] for shard, pair in picked]).float()
            for name in ("low", "middle", "high")
        }
        return Pairs(**tensors)

    def batch(self, step: int, size: int) -> Pairs:
        """``size`` pairs: the same for the same seed and step."""
        generator = counter_generator(self._seed, "pairs batch", step)
        return self.take(torch.randperm(len(self), generator=generator)[:size].tolist())
