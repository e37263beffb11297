"""Pairs of latents for upsamplers and super-resolution: one picture, encoded at low and at high resolution.

Shards (see `shards`) hold float16 latents of N pairs: ``low`` (N, T, C, h, w), ``middle`` (N, T, C, s*h, s*w) and
``high`` (N, T, C, f*h, f*w), where f is the factor and s its first stage (the same as f where there is but one); and
``text`` (N, L, D) where captions are wanted.

N pairs of a shard, B batch, T latent frames, C channels, h w rows and columns of the low grid, L text tokens, D width
of the text states.
"""

from __future__ import annotations

from collections import defaultdict
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
from ultraflash.models.preset import BaseConfig
from ultraflash.models.upsampler import stage_factors
from ultraflash.models.weights import ENCODER_FILE, sha256_of
from ultraflash.training.patches import load_encoder, to_pixels
from ultraflash.training.remaking import Remaker, draw_sigma, teacher_file
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import Shard, make_shards, shard_paths
from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import WORLD, Scene, sample_scene

_CELL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """What a shard holds.

    Args:
        pairs_per_shard: N.
        latent_frames: T.
        windows: for each factor h and w, as (factor, h, w).
        base_rows, base_cols: low latents of a whole picture; it is drawn ``factor`` times as large.
        shards: shards to train on, of every factor. One more is held out.
        with_text: whether the captions' text states come along.
        remade: share of pairs whose low latents the generator has remade (see `remaking`); these come with text.
        remade_sigmas: least and largest noise level that it does so from.
    """

    pairs_per_shard: int = 16
    latent_frames: int = 3
    windows: tuple[tuple[int, int, int], ...] = ((2, 12, 12), (4, 10, 10), (6, 8, 8))
    base_rows: int = 16
    base_cols: int = 28
    shards: int = 12
    with_text: bool = False
    remade: float = 0.0
    remade_sigmas: tuple[float, float] = (0.3, 0.8)

    def __post_init__(self) -> None:
        if min(self.pairs_per_shard, self.latent_frames, self.shards) < 1:
            raise BadConfig("pairs_per_shard, latent_frames and shards start at 1")
        if not 0 <= self.remade <= 1 or not 0 < self.remade_sigmas[0] <= self.remade_sigmas[1] <= 1:
            raise BadConfig("remade lies in [0, 1], remade_sigmas rise in (0, 1]", param="remade")
        if self.remade > 0 and not self.with_text:
            raise BadConfig("the generator remakes pictures by their captions: set with_text", param="remade")
        for factor, rows, cols in self.windows:
            if min(factor, rows, cols) < 1 or rows > self.base_rows or cols > self.base_cols:
                raise BadConfig(
                    f"a window of {rows}x{cols} does not fit a picture of {self.base_rows}x{self.base_cols}",
                    param="windows",
                )

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
    """Draws high-resolution windows, shrinks them by area, and encodes them at every scale.

    Args:
        base: the multi-step generator that remakes low latents, where the config asks for that.
    """

    config: PairsConfig
    patch: PatchConfig
    weights: Path
    factor: int
    seed: int
    split: str
    base: BaseConfig | None = None

    def __post_init__(self) -> None:
        if self.config.remade > 0 and self.base is None:
            raise BadConfig("pairs that are remade want a generator", param="remade")

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes, but for the number of shards."""
        pairs = {name: value for name, value in asdict(self.config).items() if name != "shards"}
        source = {"world": WORLD, "factor": self.factor, "seed": self.seed, "split": self.split}
        files = {"encoder_sha256": sha256_of(self.weights / ENCODER_FILE)}
        if self.config.remade > 0:
            files["base_sha256"] = sha256_of(teacher_file(self.weights))
        return pairs | source | files

    def open(self) -> Callable[[int], Shard]:
        """Load the encoder and, where they are wanted, the text model and the generator."""
        encoder = load_encoder(self.patch, self.weights)
        encode_text = _text_encoder() if self.config.with_text else None
        remaker = (
            Remaker(self.base, self.weights) if self.base is not None and self.config.remade > 0 else None
        )
        shrinks = {"low": self.factor, "middle": self.factor // stage_factors(self.factor)[0], "high": 1}

        @torch.no_grad()
        def make(number: int) -> Shard:
            made: dict[str, list[Tensor]] = defaultdict(list)
            first = number * self.config.pairs_per_shard
            for pair in range(first, first + self.config.pairs_per_shard):
                window = draw_window(self.config, self.factor, pair, seed=self.seed, split=self.split)
                frames_TCHW = to_pixels(window.draw(self.factor))
                for name, shrink in shrinks.items():
                    small_TCHW = functional.avg_pool2d(frames_TCHW, shrink)
                    made[name].append(encoder.encode_clip(small_TCHW[None])[0].half())
                if encode_text is None:
                    continue
                text = encode_text(caption(window.scene, pair))
                made["text"].append(text.half())
                generator = counter_generator(self.seed, "pairs remade", self.factor, pair)
                if remaker is not None and float(torch.rand((), generator=generator)) < self.config.remade:
                    whole = encoder.encode_clip(to_pixels(window.draw_whole())[None])[0].transpose(0, 1)
                    sigma = draw_sigma(self.config.remade_sigmas, generator)
                    marred = remaker(whole, text, sigma, generator).transpose(0, 1)
                    made["low"][-1] = window.cut(marred).half()
            return Shard(tensors={name: torch.stack(each) for name, each in made.items()})

        return make


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a picture, in rows and columns of its low latents."""

    scene: Scene
    config: PairsConfig
    top: int
    left: int
    rows: int
    cols: int
    start_s: float

    def draw(self, factor: int) -> Tensor:
        """uint8 (T, H, W, 3) of the window alone, ``factor`` times enlarged."""
        cell = _CELL * factor
        return self._render(cell, (self.top * cell, self.left * cell, self.rows * cell, self.cols * cell))

    def draw_whole(self) -> Tensor:
        """uint8 (T, H, W, 3) of the whole picture as the low latents show it."""
        return self._render(_CELL, None)

    def cut(self, latent_TCHW: Tensor) -> Tensor:
        """The window's part of latents of the whole picture."""
        return latent_TCHW[..., self.top : self.top + self.rows, self.left : self.left + self.cols]

    def _render(self, cell: int, crop: tuple[int, int, int, int] | None) -> Tensor:
        return render(
            self.scene,
            frames=4 * self.config.latent_frames - 3,
            height=self.config.base_rows * cell,
            width=self.config.base_cols * cell,
            start_s=self.start_s,
            crop=crop,
        )


def draw_window(config: PairsConfig, factor: int, number: int, *, seed: int, split: str) -> Window:
    """Window ``number`` of a factor: a random part of a random scene."""
    rows, cols = next((rows, cols) for each, rows, cols in config.windows if each == factor)
    generator = counter_generator(seed, "pairs window", factor, number)
    return Window(
        scene=sample_scene(counter_seed(seed, "pairs scene", factor, number), split),
        config=config,
        top=int(torch.randint(config.base_rows - rows + 1, (), generator=generator)),
        left=int(torch.randint(config.base_cols - cols + 1, (), generator=generator)),
        rows=rows,
        cols=cols,
        start_s=float(torch.rand((), generator=generator)) * 4,
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
    config: PairsConfig,
    root: Path,
    *,
    patch: PatchConfig,
    weights: Path,
    seed: int,
    workers: int,
    base: BaseConfig | None = None,
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
                base=base,
            )
            folder = pairs_folder(root, factor, split)
            if not make_shards(maker, folder, name=f"pairs {folder.name}", numbers=numbers, workers=workers):
                return False
    return True
