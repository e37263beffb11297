"""The latents cache: Vista clips, encoded once, with their captions and text states.

``RUN_DIR/latents`` holds shards (see `shards`) of N clips: ``latents`` float16 (N, C, T, H, W), ``text`` float16
(N, K, L, D) and the metadata ``captions``, a JSON list of N lists of K captions.

B batch, N clips of a shard, K captions of a clip, T latent frames, C channels, H W latent rows and columns,
L text tokens, D width of the text states.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.training.loop import StageConfig
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import Shard, make_shards, shard_paths


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsConfig(StageConfig):
    """What to render and encode. A step is one shard; ``minutes`` ends the run between shards.

    ``latent_frames`` latent frames come from 4 * latent_frames - 3 pictures of ``height`` x ``width`` at ``fps``.
    """

    split: str = "train"
    clips_per_shard: int = 32
    captions_per_clip: int = 2
    latent_frames: int = 9
    height: int = 256
    width: int = 448
    fps: int = 16
    workers: int = 2

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if min(self.clips_per_shard, self.captions_per_clip, self.latent_frames, self.workers) < 1:
            raise BadConfig("clips_per_shard, captions_per_clip, latent_frames and workers start at 1")
        if self.height % 16 or self.width % 16:
            raise BadConfig("height and width are multiples of 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsBatch:
    """Clips with one caption each. ``latent_BCTHW`` and ``text_BLD`` are float32."""

    latent_BCTHW: torch.Tensor
    text_BLD: torch.Tensor
    captions: tuple[str, ...]


class LatentsDataset:
    """Reader of a latents cache. Shards are memory-mapped, so opening is quick and the system caches what is used."""

    def __init__(
        self, folder: Path, *, seed: int = 0, held_out_shards: int = 0, held_out: bool = False
    ) -> None:
        """Open the cache in ``folder``.

        The first ``held_out_shards`` shards are left out, or with ``held_out`` are all there is. Raises MissingWeights
        where no shard is left.
        """
        paths = shard_paths(folder)
        paths = paths[:held_out_shards] if held_out else paths[held_out_shards:]
        if not paths:
            raise MissingWeights(f"no latents in {folder}; make them with: ultraflash train latents")
        self._seed = seed
        self._latents, self._text, self._captions = [], [], []
        for path in paths:
            with safe_open(path, "pt") as shard:
                self._latents.append(shard.get_tensor("latents"))
                self._text.append(shard.get_tensor("text"))
                self._captions.append(json.loads(shard.metadata()["captions"]))
        self._index = [(shard, clip) for shard, names in enumerate(self._captions) for clip in range(len(names))]

    def __len__(self) -> int:
        return len(self._index)

    def clip(self, number: int, caption: int = 0) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Clip ``number``: float16 latents (C, T, H, W), text states (L, D) of one of its captions, and that."""
        shard, clip = self._index[number]
        return self._latents[shard][clip], self._text[shard][clip, caption], self._captions[shard][clip][caption]

    def batch(self, step: int, size: int) -> LatentsBatch:
        """``size`` different clips, each with one of its captions: the same for the same seed and step."""
        generator = counter_generator(self._seed, "latents batch", step)
        picked = torch.randperm(len(self), generator=generator)[:size].tolist()
        choices = len(self._captions[0][0])
        which = torch.randint(choices, (len(picked),), generator=generator).tolist()
        clips = [self.clip(number, caption) for number, caption in zip(picked, which, strict=True)]
        return LatentsBatch(
            latent_BCTHW=torch.stack([latent_CTHW for latent_CTHW, _, _ in clips]).float(),
            text_BLD=torch.stack([text_LD for _, text_LD, _ in clips]).float(),
            captions=tuple(caption for _, _, caption in clips),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsMaker:
    """Renders, encodes and describes the clips of a shard."""

    config: LatentsConfig
    encoder: Path

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes: the settings, and the encoder's hash."""
        names = ("seed", "split", "clips_per_shard", "captions_per_clip", "latent_frames", "height", "width", "fps")
        settings = {name: getattr(self.config, name) for name in names}
        return settings | {"encoder_sha256": hashlib.sha256(self.encoder.read_bytes()).hexdigest()}

    def open(self) -> Callable[[int], Shard]:
        """Load encoder and text model."""
        return _ClipEncoder(self.config, self.encoder).shard


class _ClipEncoder:
    """What a worker holds: the networks, once."""

    def __init__(self, config: LatentsConfig, encoder: Path) -> None:
        self._config = config
        self._encoder = load_encoder(encoder)
        self._text = TextEncoder()

    @torch.no_grad()
    def shard(self, number: int) -> Shard:
        config = self._config
        first = number * config.clips_per_shard
        latents, states, captions = [], [], []
        for clip in range(first, first + config.clips_per_shard):
            scene = sample_scene(counter_seed(config.seed, "scene", clip), config.split)
            frames_THWC = render(
                scene,
                frames=4 * config.latent_frames - 3,
                height=config.height,
                width=config.width,
                fps=config.fps,
            )
            latent_BTCHW = self._encoder.encode(to_unit_range(frames_THWC)[None])
            latents.append(latent_BTCHW[0].transpose(0, 1).half())
            lines = captions_of(scene, count=config.captions_per_clip, seed=counter_seed(config.seed, "words", clip))
            states.append(torch.stack([self._text.encode(line) for line in lines]).half())
            captions.append(lines)
        return Shard(
            tensors={"latents": torch.stack(latents), "text": torch.stack(states)},
            metadata={"captions": json.dumps(captions)},
        )


def run(config: LatentsConfig, run_dir: Path) -> bool:
    """Make the shards that are missing. Returns False when a signal stopped it."""
    encoder = run_dir / "weights" / ENCODER_FILE
    if not encoder.exists():
        raise MissingWeights(f"{encoder} is missing; make it with: ultraflash train autoencoder")
    return make_shards(
        LatentsMaker(config=config, encoder=encoder),
        run_dir / "latents",
        name="latents",
        count=config.steps,
        workers=config.workers,
        minutes=config.minutes,
    )
