"""Stage ``few_step``: self-forcing distribution matching of the generator into a few steps.

At a random one of the student's steps the clean estimate of the last block is compared by two scores under fresh
noise: the frozen teacher with guidance (what videos of the prompt look like) and a network trained all along on the
student's outputs (what the student's look like). The difference moves the student (Yin et al., Improved Distribution
Matching Distillation, 2024; Huang et al., Self Forcing, 2025).

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig
from ultraflash.models.schedule import add_noise, shift_sigma
from ultraflash.training.base import SMALLEST_SIGMA, TEACHER_FILE
from ultraflash.training.loop import train
from ultraflash.training.rollout import block_estimate
from ultraflash.training.self_forcing import GuidedTeacher, RollBatch, RollConfig, RollStage


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStepConfig(RollConfig):
    """How the student is matched.

    Args:
        score_steps: updates of the student's score for each update of the student.
        sigma_low, sigma_high: noise levels at which scores are compared.
    """

    score_steps: int = 3
    sigma_low: float = 0.05
    sigma_high: float = 0.98

    def __post_init__(self) -> None:
        RollConfig.__post_init__(self)
        if not 0 < self.sigma_low < self.sigma_high < 1:
            raise BadConfig("0 < sigma_low < sigma_high < 1 must hold")
        if self.score_steps < 1:
            raise BadConfig("score_steps starts at 1", param="score_steps")


class FewStepStage(RollStage):
    """See :class:`ultraflash.training.loop.Stage`."""

    def __init__(self, config: FewStepConfig, run_dir: Path) -> None:
        super().__init__(config, run_dir)
        self.config = config

    def build(self) -> nn.Module:
        self.teacher, self.score = self.network(TEACHER_FILE), self.network(TEACHER_FILE)
        self.student = self.network(self.config.start_from)
        self.teacher.requires_grad_(False)
        return nn.ModuleDict({"student": self.student, "score": self.score})

    def moves_student(self, step: int) -> bool:
        return step % (self.config.score_steps + 1) == 0

    def loss(self, batch: RollBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        past = self.past_blocks(batch)
        clean = self.student_block(batch, past).clean_BCFHW
        noise = torch.randn_like(clean)
        sigma = self._draw_sigma(clean)
        if batch.moves_student:
            loss = self._matching_loss(batch, past, clean, noise, sigma)
            return loss, {"matching": loss.detach()}
        loss = self._score_loss(batch, past, clean.detach(), noise, sigma)
        return loss, {"score": loss.detach()}

    def _draw_sigma(self, clean: Tensor) -> Tensor:
        sigma_B = shift_sigma(torch.rand(clean.shape[0], device=clean.device), self.base.schedule.shift)
        return sigma_B.clamp(self.config.sigma_low, self.config.sigma_high)

    def _scored(self, batch: RollBatch, past: list[Tensor], noisy: Tensor, sigma_B: Tensor) -> Tensor:
        """The score network's clean estimate of a noised block after the same past."""
        stream = self.committed(self.score, batch.text_BXW, past)
        text = self.score.encode_text(batch.text_BXW)
        return block_estimate(self.score, self.base, noisy, sigma_B, text, stream.positions, stream.past())

    def _matching_loss(
        self, batch: RollBatch, past: list[Tensor], clean: Tensor, noise: Tensor, sigma_B: Tensor
    ) -> Tensor:
        with torch.no_grad():
            noisy = add_noise(clean, noise, sigma_B.view(-1, 1, 1, 1, 1))
            real = GuidedTeacher(self, batch.text_BXW, past).clean(noisy, sigma_B)
            fake = self._scored(batch, past, noisy, sigma_B)
            scale = (clean - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-3)
            target = clean - (fake - real) / scale
        return 0.5 * (clean - target).square().mean()

    def _score_loss(
        self, batch: RollBatch, past: list[Tensor], clean: Tensor, noise: Tensor, sigma_B: Tensor
    ) -> Tensor:
        noisy = add_noise(clean, noise, sigma_B.view(-1, 1, 1, 1, 1))
        estimate = self._scored(batch, past, noisy, sigma_B)
        weight = sigma_B.view(-1, 1, 1, 1, 1).clamp_min(SMALLEST_SIGMA).square()
        return ((estimate - clean).square() / weight).mean()


def run(config: FewStepConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(FewStepStage(config, run_dir), config, run_dir)
