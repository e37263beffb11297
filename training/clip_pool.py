"""A pool of small pixel clips on disk, cut from Vista and from real videos, that stages draw their batches from.

Shards (see `shards`) hold ``frames``: uint8 (N, T, H, W, 3).

N clips of a shard, B batch, T frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.training.real_clips import find_clips, read_frames
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import Shard, make_shards, shard_paths
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import WORLD, sample_scene

_ASPECT = 7 / 4
_READ_FRAMES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """What a pool holds.

    Args:
        clips_per_shard, frames, window: N, T, and both H and W.
        heights: heights of the whole pictures, in turn, at the aspect 7:4; real clips are halved while they are higher
            than the height whose turn it is.
        shards: shards of rendered clips.
        real_shards: shards from each real clip.
    """

    clips_per_shard: int = 32
    frames: int = 9
    window: int = 256
    heights: tuple[int, ...] = (512, 1024, 1536)
    shards: int = 16
    real_shards: int = 1

    def __post_init__(self) -> None:
        if self.window > min(self.heights) or self.window % 16 or self.frames % 4 != 1:
            raise BadConfig("window is a multiple of 16 that fits every height, and frames is 4n - 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedClips:
    """Maker of shards of rendered clips."""

    config: PoolConfig
    seed: int
    split: str

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes, but for the number of shards."""
        pool = {name: value for name, value in asdict(self.config).items() if not name.endswith("shards")}
        return pool | {"world": WORLD, "seed": self.seed, "split": self.split}

    def open(self) -> Callable[[int], Shard]:
        """Nothing to load."""
        return self._make

    def _make(self, number: int) -> Shard:
        first = number * self.config.clips_per_shard
        clips = [self._clip(clip) for clip in range(first, first + self.config.clips_per_shard)]
        return Shard(tensors={"frames": torch.stack(clips)})

    def _clip(self, number: int) -> Tensor:
        config = self.config
        generator = counter_generator(self.seed, "pool window", number)
        height = config.heights[number % len(config.heights)]
        width = int(height * _ASPECT)
        top = _below(height - config.window + 1, generator)
        left = _below(width - config.window + 1, generator)
        return render(
            sample_scene(counter_seed(self.seed, "pool scene", number), self.split),
            frames=config.frames,
            height=height,
            width=width,
            start_s=float(torch.rand((), generator=generator)) * 4,
            crop=(top, left, config.window, config.window),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealClips:
    """Maker of shards of windows from videos: shard i * real_shards + j is the j-th of file i."""

    config: PoolConfig
    seed: int
    files: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes."""
        names = [Path(file).name for file in self.files]
        return asdict(self.config) | {"seed": self.seed, "files": names}

    def open(self) -> Callable[[int], Shard]:
        """Nothing to load."""
        return self._make

    def _make(self, number: int) -> Shard:
        config = self.config
        file = Path(self.files[number // config.real_shards])
        frames_TCHW = read_frames(file, count=_READ_FRAMES)
        if frames_TCHW.shape[0] < config.frames or min(frames_TCHW.shape[2:]) < config.window:
            count, _, height, width = frames_TCHW.shape
            raise BadConfig(
                f"{file} has {count} frames of {height}x{width}; windows of {config.frames} frames of "
                f"{config.window}x{config.window} don't fit",
                param="clips",
            )
        clips = []
        for clip in range(config.clips_per_shard):
            generator = counter_generator(self.seed, "real window", number, clip)
            shrink = _shrink(frames_TCHW, config.heights[clip % len(config.heights)], config.window)
            size = config.window * shrink
            start = _below(frames_TCHW.shape[0] - config.frames + 1, generator)
            top = _below(frames_TCHW.shape[2] - size + 1, generator)
            left = _below(frames_TCHW.shape[3] - size + 1, generator)
            window_TCHW = frames_TCHW[start : start + config.frames, :, top : top + size, left : left + size]
            window_TCHW = functional.avg_pool2d(window_TCHW.float(), shrink).round()
            clips.append(window_TCHW.to(torch.uint8).permute(0, 2, 3, 1))
        return Shard(tensors={"frames": torch.stack(clips)})


def _shrink(frames_TCHW: Tensor, height: int, window: int) -> int:
    """Power of two that brings frames down to ``height`` or less, as long as a ``window`` still fits."""
    shrink = 1
    while frames_TCHW.shape[2] // shrink > height and min(frames_TCHW.shape[2:]) >= 2 * shrink * window:
        shrink *= 2
    return shrink


class ClipPool:
    """Reader of pools. Shards are memory-mapped."""

    def __init__(self, folders: Sequence[Path], *, seed: int) -> None:
        """Open the pools in ``folders``; a batch takes from all of them evenly. MissingWeights where one is empty."""
        self._seed = seed
        self._pools: list[list[Tensor]] = []
        for folder in folders:
            shards = []
            for path in shard_paths(folder):
                with safe_open(path, "pt") as shard:
                    shards.append(shard.get_tensor("frames"))
            if not shards:
                raise MissingWeights(f"no clips in {folder}")
            self._pools.append(shards)

    def batch(self, step: int, size: int, *, shares: Sequence[float]) -> Tensor:
        """uint8 (size, T, H, W, 3), half of them mirrored: each clip from pool i with probability ``shares[i]``."""
        generator = counter_generator(self._seed, "pool batch", step)
        which = torch.multinomial(torch.tensor(shares), size, replacement=True, generator=generator).tolist()
        clips = []
        for pool in which:
            shards = self._pools[pool]
            shard = shards[_below(len(shards), generator)]
            clip_THWC = shard[_below(shard.shape[0], generator)]
            clips.append(clip_THWC.flip(2) if _below(2, generator) else clip_THWC)
        return torch.stack(clips)


def make_pools(
    config: PoolConfig, folder: Path, *, seed: int, split: str, clips: Path | None, workers: int
) -> list[Path] | None:
    """Make what is missing of the pools under ``folder``; None when a signal stopped it.

    The rendered pool comes first, then, where there is a folder of real ``clips``, theirs.
    """
    rendered = folder / "rendered"
    maker = RenderedClips(config=config, seed=seed, split=split)
    if not make_shards(maker, rendered, name="rendered clips", numbers=range(config.shards), workers=workers):
        return None
    if clips is None:
        return [rendered]
    files = tuple(str(file) for file in find_clips(clips)[0])
    real = folder / "real"
    real_maker = RealClips(config=config, seed=seed, files=files)
    numbers = range(len(files) * config.real_shards)
    if not make_shards(real_maker, real, name="real clips", numbers=numbers, workers=workers):
        return None
    return [rendered, real]


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
