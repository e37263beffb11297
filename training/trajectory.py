"""Stage ``trajectory``: the few-step student learns where the teacher's many steps lead.

From the noisy block at one of its own steps the student is asked for the end of the teacher's path from there: the
same point for the same block, so nothing is averaged away, unlike in the teacher's own one-step estimate (after the
ODE start of Yin et al., From Slow Bidirectional to Fast Autoregressive Video Diffusion Models, 2025, but on the
student's own roll-outs).

Shapes: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig
from ultraflash.models.schedule import shift_sigma
from ultraflash.training.base import TEACHER_FILE, motion_error
from ultraflash.training.loop import train
from ultraflash.training.self_forcing import GuidedTeacher, RollBatch, RollConfig, RollStage

TRAJECTORY_FILE = "base_trajectory.safetensors"
"""The two-step generator after stage ``trajectory``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryConfig(RollConfig):
    """How the student is taught.

    Args:
        solver_steps: steps of the teacher from pure noise; from less noise it takes its share of them, at least three.
        motion_weight: how much errors of the changes from frame to frame within a block count beside those of the
            frames, see :func:`ultraflash.training.base.motion_error`.
    """

    stage: str = "trajectory"
    result: str = TRAJECTORY_FILE
    solver_steps: int = 10
    motion_weight: float = 0.0

    def __post_init__(self) -> None:
        RollConfig.__post_init__(self)
        if self.solver_steps < 3:
            raise BadConfig("solver_steps starts at 3", param="solver_steps")
        if self.motion_weight < 0:
            raise BadConfig("motion_weight is not negative", param="motion_weight")


class TrajectoryStage(RollStage):
    """See :class:`ultraflash.training.loop.Stage`."""

    def __init__(self, config: TrajectoryConfig, run_dir: Path) -> None:
        super().__init__(config, run_dir)
        self.config = config

    def build(self) -> nn.Module:
        self.teacher, self.student = self.network(TEACHER_FILE), self.network(self.config.start_from)
        self.teacher.requires_grad_(False)
        return self.student

    def loss(self, batch: RollBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        past = self.past_blocks(batch)
        block = self.student_block(batch, past)
        teacher = GuidedTeacher(self, batch.text_BXW, past)
        target = self._solve(teacher, block.noisy_BCFHW, batch.exit_step)
        difference = block.clean_BCFHW - target
        error = difference.square().mean()
        motion = motion_error(difference, self.base.block_frames).mean()
        # From pure noise most of the end is open, and errors are an order larger than in the last step.
        loss = (error + self.config.motion_weight * motion) / block.sigma**2
        return loss, {"error": error.detach(), "motion_error": motion.detach()}

    @torch.no_grad()
    def _solve(self, teacher: GuidedTeacher, x: Tensor, exit_step: int) -> Tensor:
        """The end of the teacher's path from ``x`` at a step of the schedule, by Euler's method."""
        schedule = self.base.schedule
        start = schedule.nominal_steps[exit_step] / 1000
        steps = max(3, math.ceil(start * self.config.solver_steps))
        table = shift_sigma(
            torch.linspace(start, 0.0, steps + 1, dtype=torch.float64), schedule.shift
        ).tolist()
        for sigma, following in zip(table[:-1], table[1:], strict=True):
            clean = teacher.clean(x, torch.full((x.shape[0],), sigma, device=x.device))
            x = clean + (following / sigma) * (x - clean)
        return x


def run(config: TrajectoryConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(TrajectoryStage(config, run_dir), config, run_dir)
