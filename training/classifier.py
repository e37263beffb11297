"""Stage ``classifier``: a reader of attributes, trained on the latents of rendered clips.

It is what `evaluation` judges generated pictures by; the cascade does without it. It learns the pairs of attributes
that are held out from the generator as well: a reader that has never seen snow in a desert calls the place something
else, however well it was drawn.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.preset import load_preset
from ultraflash.training.evaluation.classifier import CLASSIFIER_FILE, KINDS, NOTHING, LatentClassifier
from ultraflash.training.latents import LATENTS_FOLDER, RARE_FOLDER
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.patches import export
from ultraflash.training.placement import on_device
from ultraflash.training.seeding import counter_generator
from ultraflash.training.shards import shard_paths

NOT_TOLD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(StageConfig):
    """How the classifier is trained.

    Args:
        preset: whose latents it reads.
        channels: features of its first layers.
        noise: largest deviation of the noise put on the latents: a generator's latents are not exact, and a reader
            that relied on their finest digits would misjudge them.
        test_shards: shards of each of its two caches that it is tested on.
    """

    preset: str = "mini"
    channels: int = 48
    noise: float = 0.3
    test_shards: int = 1

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if min(self.channels, self.test_shards) < 1:
            raise BadConfig("channels and test_shards start at 1")
        if self.noise < 0:
            raise BadConfig("noise is not negative", param="noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrames:
    """Latent frames (B, C, H, W) and the number of each one's kind by attribute; NOT_TOLD where it has none."""

    latent_BCHW: Tensor
    labels: dict[str, Tensor]


class LabelledClips:
    """Clips of a latents cache, and what their scenes show."""

    def __init__(self, paths: Sequence[Path]) -> None:
        clips: list[Tensor] = []
        scenes: list[dict[str, str | None]] = []
        for path in paths:
            with safe_open(path, "pt") as shard:
                clips.append(shard.get_tensor("latents"))
                scenes += json.loads(shard.metadata()["scenes"])
        self._latent_NCTHW = torch.cat(clips)
        self._labels = {
            name: torch.tensor([_label(scene, name) for scene in scenes], dtype=torch.long) for name in KINDS
        }

    def __len__(self) -> int:
        return len(self._latent_NCTHW)

    def frames(self, clips: Tensor, generator: torch.Generator) -> LabelledFrames:
        """A frame of each of the clips with these numbers."""
        frames = torch.randint(self._latent_NCTHW.shape[2], clips.shape, generator=generator)
        return LabelledFrames(
            latent_BCHW=self._latent_NCTHW[clips, :, frames].float(),
            labels={name: labels[clips] for name, labels in self._labels.items()},
        )


class ClassifierStage:
    """See :class:`ultraflash.training.loop.Stage`."""

    name = "classifier"

    def __init__(self, config: ClassifierConfig, run_dir: Path) -> None:
        self.config = config
        self.channels = load_preset(config.preset).decoder.latent_channels
        learned: list[Path] = []
        self.tests: dict[str, LabelledClips] = {}
        for folder, prefix in ((LATENTS_FOLDER, ""), (RARE_FOLDER, "rare_")):
            paths = shard_paths(run_dir / folder)
            if len(paths) <= config.test_shards:
                raise MissingWeights(
                    f"{run_dir / folder} has {len(paths)} shards, of which {config.test_shards} are for tests; "
                    f"make more with: ultraflash train {folder}"
                )
            self.tests[prefix] = LabelledClips(paths[: config.test_shards])
            learned += paths[config.test_shards :]
        self.clips = LabelledClips(learned)

    def build(self) -> nn.Module:
        self.net = LatentClassifier(self.channels, self.config.channels)
        return self.net

    def batch(self, step: int) -> LabelledFrames:
        generator = counter_generator(self.config.seed, "classifier", step)
        clips = torch.randint(len(self.clips), (self.config.batch_size,), generator=generator)
        return self.clips.frames(clips, generator)

    def loss(self, batch: LabelledFrames) -> tuple[Tensor, dict[str, Tensor | float]]:
        latent = batch.latent_BCHW
        level = self.config.noise * torch.rand(latent.shape[0], 1, 1, 1, device=latent.device)
        logits = self.net(latent + level * torch.randn_like(latent))
        losses = {name: _cross_entropy(logits[name], labels) for name, labels in batch.labels.items()}
        return torch.stack(list(losses.values())).sum(), {n: x.detach() for n, x in losses.items()}

    def sample(self, step: int) -> Tensor | None:
        return None

    def evaluate(self) -> dict[str, float]:
        """Share of frames not learned that are read right, by attribute; ``rare_``, of the pairs held out from the
        generator."""
        generator = counter_generator(self.config.seed, "classifier evaluation")
        measures = {}
        for prefix, clips in self.tests.items():
            frames = clips.frames(torch.arange(len(clips)).repeat(4), generator)
            frames = on_device(frames, self.config.device)
            logits = self.net(frames.latent_BCHW)
            for name, labels in frames.labels.items():
                told = labels != NOT_TOLD
                right = logits[name].argmax(dim=1)[told] == labels[told]
                measures[prefix + name] = float(right.float().mean())
        return measures

    def export(self, folder: Path) -> list[Path]:
        return [export(self.net, folder / CLASSIFIER_FILE)]


def _label(scene: dict[str, str | None], name: str) -> int:
    value = scene[name]
    if name == "object" and value is None:
        value = NOTHING
    return NOT_TOLD if value is None else KINDS[name].index(value)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over what is told; 0 where nothing is."""
    total = F.cross_entropy(logits, labels, ignore_index=NOT_TOLD, reduction="sum")
    return total / (labels != NOT_TOLD).sum().clamp_min(1)


def run(config: ClassifierConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(ClassifierStage(config, run_dir), config, run_dir)
