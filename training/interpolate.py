"""Stages ``interpolate`` and ``average``: a generator between two others that come from the same one.

A student that has learned its two steps for long draws what it can in two, and from any other noise level pictures
without contrast; its teacher takes a dozen steps to sharpen what it draws. Between their weights lies a generator that
knows all noise levels and needs four (``interpolate``). What four-step training makes of that one is steadier, and
draws cleaner objects with a quarter of where it began mixed in (``average``). Either takes seconds.
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
FOUR_STEPS_FILE = "base_four_steps.safetensors"
"""What that makes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolateConfig(StageConfig):
    """What is taken of which.

    Args:
        stage: name of the stage.
        preset: whose shape both generators have.
        first, second: their files in the run's ``weights``.
        second_share: 0 for the first, 1 for the second.
        result: the file that is made.
    """

    stage: str = "interpolate"
    preset: str = "mini"
    first: str = TRAJECTORY_FILE
    second: str = TEACHER_FILE
    second_share: float = 0.6
    result: str = BETWEEN_FILE

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if not 0 <= self.second_share <= 1:
            raise BadConfig(f"second_share lies in [0, 1], unlike {self.second_share}", param="second_share")


def run(config: InterpolateConfig, run_dir: Path) -> bool:
    """Write the generator between the two; always done. Raises MissingWeights where one of them is not there."""
    shape = load_preset(config.preset).base.dit
    folder = run_dir / "weights"
    made, second = CausalDiT(shape), CausalDiT(shape)
    load_file(made, folder / config.first)
    load_file(second, folder / config.second)
    with RunLog(run_dir / config.stage, stage=config.stage, resumed_at=0) as log, torch.no_grad():
        for own, other in zip(made.parameters(), second.parameters(), strict=True):
            own.mul_(1 - config.second_share).add_(other * config.second_share)
        export_all({config.result: made}, folder, config.export_to, log)
    return True
