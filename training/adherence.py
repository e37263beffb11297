"""Stage ``adherence``: does what the generator makes show what the prompt says?

A classifier learns to read biome, time and weather from latents of rendered clips; it then reads what the few-step
generator makes of prompts that it has not seen. It is a measure, not part of the cascade, and is not shipped.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.preset import load_preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.weights import BASE_FILE, load_file
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.rollout import sample_few_steps
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import shard_paths
from ultraflash.training.vista.captions import attributes_in, caption
from ultraflash.training.vista.scene import BIOMES, TIMES, WEATHERS, sample_scene

ATTRIBUTES = {"biome": BIOMES, "time": TIMES, "weather": WEATHERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdherenceConfig(StageConfig):
    """How the classifier is trained and what it reads.

    Args:
        preset: whose base to judge.
        channels: features of the classifier.
        held_out_shards: shards of the latents cache that it is tested on.
        prompts: test prompts that the generator is given.
        blocks: blocks generated for each; the last frame is read.
    """

    preset: str = "mini"
    channels: int = 64
    held_out_shards: int = 1
    prompts: int = 96
    blocks: int = 2

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if min(self.channels, self.held_out_shards, self.prompts, self.blocks) < 1:
            raise BadConfig("channels, held_out_shards, prompts and blocks start at 1")


class LatentClassifier(nn.Module):
    """Convolutions over one latent frame, one linear head per attribute."""

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d((2, 2)),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(8 * channels, len(kinds)) for name, kinds in ATTRIBUTES.items()}
        )

    def forward(self, latent_BCHW: Tensor) -> dict[str, Tensor]:
        """Logits (B, kinds) by attribute."""
        features = self.trunk(latent_BCHW)
        return {name: head(features) for name, head in self.heads.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrames:
    """Latent frames (B, C, H, W) and the number of each one's kind by attribute; -1 where it is not told."""

    latent_BCHW: Tensor
    labels: dict[str, Tensor]


class AdherenceStage:
    """See :class:`ultraflash.training.loop.Stage`."""

    name = "adherence"

    def __init__(self, config: AdherenceConfig, run_dir: Path) -> None:
        self.config, self.run_dir = config, run_dir
        self.base = load_preset(config.preset).base
        clips: list[Tensor] = []
        scenes: list[dict[str, str]] = []
        first_clip = 0
        paths = shard_paths(run_dir / "latents")
        if len(paths) <= config.held_out_shards:
            raise MissingWeights(
                f"{run_dir / 'latents'} has {len(paths)} shards, of which {config.held_out_shards} are held out; "
                "make more with: ultraflash train latents"
            )
        for number, path in enumerate(paths):
            with safe_open(path, "pt") as shard:
                clips.append(shard.get_tensor("latents"))
                scenes += json.loads(shard.metadata()["scenes"])
            if number + 1 == config.held_out_shards:
                first_clip = len(scenes)
        self.clips = torch.cat(clips)
        self.labels = {
            name: torch.tensor([kinds.index(scene[name]) for scene in scenes])
            for name, kinds in ATTRIBUTES.items()
        }
        self.first_clip = first_clip

    def build(self) -> nn.Module:
        self.net = LatentClassifier(self.base.dit.out_channels, self.config.channels)
        return self.net

    def _frames(self, clips: Tensor, generator: torch.Generator) -> LabelledFrames:
        frames = torch.randint(self.clips.shape[2], clips.shape, generator=generator)
        return LabelledFrames(
            latent_BCHW=self.clips[clips, :, frames].float(),
            labels={name: labels[clips] for name, labels in self.labels.items()},
        )

    def batch(self, step: int) -> LabelledFrames:
        generator = counter_generator(self.config.seed, "adherence", step)
        count = self.clips.shape[0] - self.first_clip
        clips = self.first_clip + torch.randint(count, (self.config.batch_size,), generator=generator)
        return self._frames(clips, generator)

    def loss(self, batch: LabelledFrames) -> tuple[Tensor, dict[str, Tensor | float]]:
        # A generator's latents are not exact: a reader that relies on fine noise would misjudge them.
        noise = 0.3 * torch.rand(batch.latent_BCHW.shape[0], 1, 1, 1)
        logits = self.net(batch.latent_BCHW + noise * torch.randn_like(batch.latent_BCHW))
        losses = [F.cross_entropy(logits[name], batch.labels[name]) for name in ATTRIBUTES]
        return torch.stack(losses).sum(), {}

    def sample(self, step: int) -> Tensor | None:
        return None

    def _accuracy(self, frames: LabelledFrames, prefix: str) -> dict[str, float]:
        logits = self.net(frames.latent_BCHW)
        measures = {}
        for name, labels in frames.labels.items():
            told = labels >= 0
            if not told.any():
                continue
            right = logits[name].argmax(dim=1)[told] == labels[told]
            measures[f"{prefix}_{name}"] = float(right.float().mean())
        return measures

    def evaluate(self) -> dict[str, float]:
        """Share read right, of rendered latents that were held out and of generated ones; and how much both move."""
        generator = counter_generator(self.config.seed, "adherence evaluation")
        rendered = self._frames(torch.arange(self.first_clip), generator)
        generated, motion = self._generate()
        real = self.clips[: self.first_clip].float()
        return {
            **self._accuracy(rendered, "rendered"),
            **self._accuracy(generated, "generated"),
            "motion_ratio": motion / float(real.diff(dim=2)[:, :, 1:].abs().mean()),
        }

    def _generate(self) -> tuple[LabelledFrames, float]:
        """Last frames of generated clips with what their prompts name, and their mean change from frame to frame."""
        net = CausalDiT(self.base.dit)
        load_file(net, self.run_dir / "weights" / BASE_FILE)
        text, seed = MiniLMEncoder(), self.config.seed
        prompts = [
            caption(sample_scene(counter_seed(seed, "adherence scene", i), "test"), i)
            for i in range(self.config.prompts)
        ]
        told = [attributes_in(prompt) for prompt in prompts]
        clips = []
        for start in range(0, len(prompts), 16):
            states = torch.stack([text.encode(prompt) for prompt in prompts[start : start + 16]])
            clips.append(
                sample_few_steps(net.eval(), self.base, states, blocks=self.config.blocks, seed=seed + start)
            )
        latents = torch.cat(clips)
        labels = {
            name: torch.tensor([kinds.index(t[name]) if name in t else -1 for t in told])
            for name, kinds in ATTRIBUTES.items()
        }
        return LabelledFrames(latent_BCHW=latents[:, :, -1], labels=labels), float(
            latents.diff(dim=2)[:, :, 1:].abs().mean()
        )

    def export(self, folder: Path) -> list[Path]:
        return []


def run(config: AdherenceConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(AdherenceStage(config, run_dir), config, run_dir)
