"""Stage ``interpolate``: a generator between two others that come from the same one.

A student that has learned its two steps for long draws what it can in two, and from any other noise level pictures
without contrast; its teacher takes a dozen steps to sharpen what it draws. Between their weights lies a generator that
knows all noise levels and needs four: where ``four_steps`` begins. Mixing them takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import load_preset
from ultraflash.models.weights import load_file
from ultraflash.training.base import TEACHER_FILE
from ultraflash.training.loop import StageConfig
from ultraflash.training.patches import export_all
from ultraflash.training.run_log import RunLog
from ultraflash.training.trajectory import TRAJECTORY_FILE

BETWEEN_FILE = "base_between.safetensors"
"""The generator between student and teacher, which four-step training begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolateConfig(StageConfig):
    """How much is taken of which.

    Args:
        preset: whose shape both generators have.
        teacher_share: 0 for the student, 1 for its teacher.
    """

    preset: str = "mini"
    teacher_share: float = 0.6

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if not 0 <= self.teacher_share <= 1:
            raise BadConfig(
                f"teacher_share lies in [0, 1], unlike {self.teacher_share}", param="teacher_share"
            )


def run(config: InterpolateConfig, run_dir: Path) -> bool:
    """Write the generator between the two; always done. Raises MissingWeights where one of them is not there."""
    shape = load_preset(config.preset).base.dit
    folder = run_dir / "weights"
    made, teacher = CausalDiT(shape), CausalDiT(shape)
    load_file(made, folder / TRAJECTORY_FILE)
    load_file(teacher, folder / TEACHER_FILE)
    with RunLog(run_dir / "interpolate", stage="interpolate", resumed_at=0) as log, torch.no_grad():
        for own, other in zip(made.parameters(), teacher.parameters(), strict=True):
            own.lerp_(other, config.teacher_share)
        export_all({BETWEEN_FILE: made}, folder, config.export_to, log)
    return True
