"""Pairs of latents for upsamplers and super-resolution: one picture, encoded at low and at high resolution.

Shards (see `shards`) hold float16 latents of N pairs: ``low`` (N, T, C, h, w), ``middle`` (N, T, C, s*h, s*w) and
``high`` (N, T, C, f*h, f*w), where f is the factor and s its first stage (the same as f where there is but one); and
``text`` (N, L, D) where captions are wanted.

N pairs of a shard, B batch, T latent frames, C channels, h w rows and columns of the low grid, L text tokens, D width
of the text states.
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
from ultraflash.training.shards import Shard, make_shards, shard_paths
from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import Scene, sample_scene

_CELL = 16
_ASPECT = 7 / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """What a shard holds.

    Args:
        pairs_per_shard: N.
        latent_frames: T.
        windows: for each factor h and w, as (factor, h, w).
        base_rows: low rows of a whole picture; it is ``factor`` times as high when drawn.
        shards: shards to train on, of every factor. One more is held out.
        with_text: whether the captions' text states come along.
    """

    pairs_per_shard: int = 16
    latent_frames: int = 3
    windows: tuple[tuple[int, int, int], ...] = ((2, 12, 12), (4, 10, 10), (6, 8, 8))
    base_rows: int = 16
    shards: int = 12
    with_text: bool = False

    def __post_init__(self) -> None:
        if min(self.pairs_per_shard, self.latent_frames, self.shards) < 1:
            raise BadConfig("pairs_per_shard, latent_frames and shards start at 1")
        for factor, rows, cols in self.windows:
            if min(factor, rows, cols) < 1 or rows > self.base_rows or cols > self.base_cols:
                raise BadConfig(
                    f"a window of {rows}x{cols} does not fit a picture of {self.base_rows}x{self.base_cols}",
                    param="windows",
                )

    @property
    def base_cols(self) -> int:
        """Low columns of a whole picture."""
        return int(self.base_rows * _ASPECT)

    @property
    def factors(self) -> tuple[int, ...]:
        """How much larger the high latents are than the low ones."""
        return tuple(factor for factor, _, _ in self.windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Latents (B, T, C, rows, columns) of the same pictures and, where kept, text states (B, L, D), float32."""

    low: Tensor
    middle: Tensor
    high: Tensor
    text_BLD: Tensor | None = None


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
        """Load the encoder and, where captions are wanted, the text model."""
        encoder = load_encoder(self.patch, self.weights)
        encode_text = _text_encoder() if self.config.with_text else None
        shrinks = {"low": self.factor, "middle": self.factor // stage_factors(self.factor)[0], "high": 1}

        @torch.no_grad()
        def make(number: int) -> Shard:
            made: dict[str, list[Tensor]] = {name: [] for name in shrinks}
            first = number * self.config.pairs_per_shard
            for pair in range(first, first + self.config.pairs_per_shard):
                scene = sample_scene(counter_seed(self.seed, "pairs scene", self.factor, pair), self.split)
                frames_TCHW = to_pixels(self._frames(scene, pair))
                for name, shrink in shrinks.items():
                    small_TCHW = functional.avg_pool2d(frames_TCHW, shrink)
                    made[name].append(encoder.encode_clip(small_TCHW[None])[0].half())
                if encode_text is not None:
                    made.setdefault("text", []).append(encode_text(caption(scene, pair)).half())
            return Shard(tensors={name: torch.stack(each) for name, each in made.items()})

        return make

    def _frames(self, scene: Scene, number: int) -> Tensor:
        """uint8 (T, H, W, 3): a window of picture ``number`` on the low grid's cells."""
        config = self.config
        rows, cols = next((rows, cols) for factor, rows, cols in config.windows if factor == self.factor)
        generator = counter_generator(self.seed, "pairs window", self.factor, number)
        cell = _CELL * self.factor
        top = int(torch.randint(config.base_rows - rows + 1, (), generator=generator)) * cell
        left = int(torch.randint(config.base_cols - cols + 1, (), generator=generator)) * cell
        return render(
            scene,
            frames=4 * config.latent_frames - 3,
            height=config.base_rows * cell,
            width=config.base_cols * cell,
            start_s=float(torch.rand((), generator=generator)) * 4,
            crop=(top, left, rows * cell, cols * cell),
        )


def _text_encoder() -> Callable[[str], Tensor]:
    # Here and not above: workers that draw without captions have no use for its runtime.
    from ultraflash.models.text import MiniLMEncoder

    return MiniLMEncoder().encode


class PairsReader:
    """Pairs of a folder of shards, memory-mapped."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        """Open what is there. Raises MissingWeights for an empty folder."""
        self._seed = seed
        self._shards: list[dict[str, Tensor]] = []
        for path in shard_paths(folder):
            with safe_open(path, "pt") as shard:
                self._shards.append({name: shard.get_tensor(name) for name in shard.keys()})
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
            for name in self._shards[0]
        }
        return Pairs(
            low=tensors["low"],
            middle=tensors["middle"],
            high=tensors["high"],
            text_BLD=tensors.get("text"),
        )

    def batch(self, step: int, size: int) -> Pairs:
        """``size`` pairs: the same for the same seed and step."""
        generator = counter_generator(self._seed, "pairs batch", step)
        return self.take(torch.randperm(len(self), generator=generator)[:size].tolist())


def pairs_folder(root: Path, factor: int, split: str) -> Path:
    """Where under ``root`` the pairs of a factor and a split lie."""
    return root / (f"x{factor}" if split == "train" else f"x{factor}-{split}")


def make_pairs(
    config: PairsConfig, root: Path, *, patch: PatchConfig, weights: Path, seed: int, workers: int
) -> bool:
    """Draw what is missing of the pairs of all factors, and one shard of test scenes each; False when a signal
    stopped it."""
    for factor in config.factors:
        for split, numbers in (("train", range(config.shards)), ("test", range(1))):
            maker = PairsMaker(
                config=config,
                patch=patch,
                weights=weights,
                factor=factor,
                seed=counter_seed(seed, "pairs"),
                split=split,
            )
            folder = pairs_folder(root, factor, split)
            if not make_shards(maker, folder, name=f"pairs {folder.name}", numbers=numbers, workers=workers):
                return False
    return True
