"""Stage ``few_step``: self-forcing distribution matching of the multi-step generator into a few steps.

The student rolls out on its own outputs with the cache that a stream uses. At a random one of its steps the clean
estimate of the last block is compared by two scores under fresh noise: the frozen teacher with guidance (what videos
of the prompt look like) and a network trained all along on the student's outputs (what the student's look like). The
difference moves the student (Yin et al., Improved Distribution Matching Distillation, 2024; Huang et al., Self
Forcing, 2025).

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import BaseConfig, load_preset
from ultraflash.models.schedule import add_noise, shift_sigma
from ultraflash.models.weights import BASE_FILE, load_file
from ultraflash.training.base import SMALLEST_SIGMA, TEACHER_FILE
from ultraflash.training.latents import LatentsDataset
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.patches import export
from ultraflash.training.rollout import Roller, block_estimate, sample_few_steps
from ultraflash.training.seeding import counter_generator
from ultraflash.training.sheets import latent_sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStepConfig(StageConfig):
    """How the generator is distilled.

    Args:
        preset: whose base to train; its schedule is what the student learns to run.
        blocks: longest roll-out.
        guidance: of the teacher's score.
        score_steps: updates of the student's score for each update of the student.
        real_context: share of batches whose past are real clips instead of the student's own blocks.
        sigma_low, sigma_high: noise levels at which scores are compared.
        held_out_shards: shards of the latents cache kept for evaluation.
    """

    preset: str = "mini"
    blocks: int = 3
    guidance: float = 2.0
    score_steps: int = 3
    real_context: float = 0.5
    sigma_low: float = 0.05
    sigma_high: float = 0.98
    held_out_shards: int = 1

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        if not 0 < self.sigma_low < self.sigma_high < 1:
            raise BadConfig("0 < sigma_low < sigma_high < 1 must hold")
        if self.blocks < 1 or self.score_steps < 1:
            raise BadConfig("blocks and score_steps start at 1")
        if self.held_out_shards < 1:
            raise BadConfig("held_out_shards starts at 1", param="held_out_shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBatch:
    """Prompts, the clips they belong to, and what this step does with them."""

    latent_BCFHW: Tensor
    text_BXW: Tensor
    past_blocks: int
    exit_step: int
    real_context: bool
    moves_student: bool


class FewStepStage:
    """See :class:`ultraflash.training.loop.Stage`."""

    name = "few_step"

    def __init__(self, config: FewStepConfig, run_dir: Path) -> None:
        self.config = config
        self.base: BaseConfig = load_preset(config.preset).base
        if config.blocks * self.base.block_frames > self.base.window_frames:
            raise BadConfig(
                f"a roll-out of {config.blocks} blocks of {self.base.block_frames} frames is longer than the window of "
                f"{self.base.window_frames}: scores would see frames that the student's cache has dropped",
                param="blocks",
            )
        self.run_dir = run_dir
        cache = run_dir / "latents"
        self.clips = LatentsDataset(cache, seed=config.seed, held_out_shards=config.held_out_shards)
        self.held_out = LatentsDataset(
            cache, seed=config.seed, held_out_shards=config.held_out_shards, held_out=True
        )

    def build(self) -> nn.Module:
        self.teacher, self.student, self.score = (CausalDiT(self.base.dit) for _ in range(3))
        for net in (self.teacher, self.student, self.score):
            load_file(net, self.run_dir / "weights" / TEACHER_FILE)
        self.teacher.requires_grad_(False)
        return nn.ModuleDict({"student": self.student, "score": self.score})

    def batch(self, step: int) -> RollBatch:
        config = self.config
        clips = self.clips.batch(step, config.batch_size)
        generator = counter_generator(config.seed, "roll-out", step)
        draw = torch.rand(3, generator=generator).tolist()
        return RollBatch(
            latent_BCFHW=clips.latent_BCTHW,
            text_BXW=clips.text_BLD,
            past_blocks=int(draw[0] * config.blocks),
            exit_step=int(draw[1] * len(self.base.schedule.sigmas)),
            real_context=draw[2] < config.real_context,
            moves_student=step % (config.score_steps + 1) == 0,
        )

    def loss(self, batch: RollBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        past = self._past_blocks(batch)
        clean = self._student_block(batch, past)
        noise = torch.randn_like(clean)
        sigma = self._draw_sigma(clean.shape[0])
        if batch.moves_student:
            loss = self._matching_loss(batch, past, clean, noise, sigma)
            return loss, {"matching": loss.detach()}
        loss = self._score_loss(batch, past, clean.detach(), noise, sigma)
        return loss, {"score": loss.detach()}

    def _past_blocks(self, batch: RollBatch) -> list[Tensor]:
        """Clean blocks before the one in work, without gradients."""
        size = self.base.block_frames
        if batch.real_context:
            return [batch.latent_BCFHW[:, :, i * size : (i + 1) * size] for i in range(batch.past_blocks)]
        stream = Roller(self.student, self.base, batch.text_BXW)
        blocks = []
        for _ in range(batch.past_blocks):
            clean = self._few_steps(stream, len(self.base.schedule.sigmas))
            stream.commit(clean)
            blocks.append(clean)
        return blocks

    def _few_steps(self, stream: Roller, count: int) -> Tensor:
        """Clean estimate after the first ``count`` steps, without gradients."""
        clean = torch.zeros(stream.shape)
        for sigma in self.base.schedule.sigmas[:count]:
            noisy = add_noise(clean, torch.randn(stream.shape), sigma)
            clean = stream.clean(noisy, sigma)
        return clean

    def _committed(self, net: CausalDiT, text_BXW: Tensor, past: list[Tensor]) -> Roller:
        stream = Roller(net, self.base, text_BXW)
        for clean in past:
            stream.commit(clean)
        return stream

    def _student_block(self, batch: RollBatch, past: list[Tensor]) -> Tensor:
        """The student's clean estimate at the exit step, differentiable when this step moves it."""
        stream = self._committed(self.student, batch.text_BXW, past)
        seen = stream.past()
        with torch.no_grad():
            clean = self._few_steps(stream, batch.exit_step)
        sigma = self.base.schedule.sigmas[batch.exit_step]
        noisy = add_noise(clean, torch.randn(stream.shape), sigma)
        with torch.set_grad_enabled(batch.moves_student):
            text = self.student.encode_text(batch.text_BXW)
            level = torch.full((noisy.shape[0],), sigma)
            return block_estimate(self.student, self.base, noisy, level, text, stream.positions, seen)

    def _draw_sigma(self, count: int) -> Tensor:
        sigma_B = shift_sigma(torch.rand(count), self.base.schedule.shift)
        return sigma_B.clamp(self.config.sigma_low, self.config.sigma_high)

    def _estimate(
        self, net: CausalDiT, text_BXW: Tensor, past: list[Tensor], noisy: Tensor, sigma_B: Tensor
    ) -> Tensor:
        """A score network's clean estimate of a noised block after the same past."""
        stream = self._committed(net, text_BXW, past)
        text = net.encode_text(text_BXW)
        return block_estimate(net, self.base, noisy, sigma_B, text, stream.positions, stream.past())

    def _matching_loss(
        self, batch: RollBatch, past: list[Tensor], clean: Tensor, noise: Tensor, sigma_B: Tensor
    ) -> Tensor:
        with torch.no_grad():
            noisy = add_noise(clean, noise, sigma_B.view(-1, 1, 1, 1, 1))
            prompted = self._estimate(self.teacher, batch.text_BXW, past, noisy, sigma_B)
            free = self._estimate(self.teacher, torch.zeros_like(batch.text_BXW), past, noisy, sigma_B)
            real = free + self.config.guidance * (prompted - free)
            fake = self._estimate(self.score, batch.text_BXW, past, noisy, sigma_B)
            scale = (clean - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-3)
            target = clean - (fake - real) / scale
        return 0.5 * (clean - target).square().mean()

    def _score_loss(
        self, batch: RollBatch, past: list[Tensor], clean: Tensor, noise: Tensor, sigma_B: Tensor
    ) -> Tensor:
        noisy = add_noise(clean, noise, sigma_B.view(-1, 1, 1, 1, 1))
        estimate = self._estimate(self.score, batch.text_BXW, past, noisy, sigma_B)
        weight = sigma_B.view(-1, 1, 1, 1, 1).clamp_min(SMALLEST_SIGMA).square()
        return ((estimate - clean).square() / weight).mean()

    def sample(self, step: int) -> Tensor:
        clips = self.held_out.batch(0, 8)
        latents = sample_few_steps(
            self.student, self.base, clips.text_BLD, blocks=self.config.blocks, seed=self.config.seed
        )
        return latent_sheet(
            latents, clips.captions, self.run_dir / "weights", load_preset(self.config.preset)
        )

    def evaluate(self) -> dict[str, float]:
        """Mean and spread of few-step latents against those of held-out clips: 0 and 1 when they agree."""
        clips = self.held_out.batch(0, 16)
        made = sample_few_steps(
            self.student, self.base, clips.text_BLD, blocks=self.config.blocks, seed=self.config.seed
        )
        real = clips.latent_BCTHW
        mean_gap = (made.mean((0, 2, 3, 4)) - real.mean((0, 2, 3, 4))).abs().mean()
        return {"mean_gap": float(mean_gap), "spread_ratio": float(made.std() / real.std())}

    def export(self, folder: Path) -> list[Path]:
        return [export(self.student, folder / BASE_FILE)]


def run(config: FewStepConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(FewStepStage(config, run_dir), config, run_dir)
