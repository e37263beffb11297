"""Flow-matching noise schedule with the timestep shift of Wan and Self-Forcing.

A latent at noise level ``sigma`` is ``x = (1 - sigma) * clean + sigma * noise``. Its flow is
``noise - clean``, so ``clean = x - sigma * flow``. Timesteps that networks see are ``1000 * sigma``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig

TRAIN_STEPS = 1000


def shift_sigma(s: Tensor, shift: float) -> Tensor:
    """Noise levels in [0, 1], of any shape, moved towards noise: ``shift*s / (1 + (shift-1)*s)``."""
    return shift * s / (1 + (shift - 1) * s)


def shifted_sigmas(shift: float, steps: int = TRAIN_STEPS) -> Tensor:
    """Shifted noise levels from 1 downwards, float64 of shape (steps,)."""
    return shift_sigma(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)[:-1], shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSchedule:
    """The few noise levels at which a distilled generator runs.

    Args:
        nominal_steps: falling integers in 1..1000; each is a place in the table of 1000 shifted noise levels.
        shift: timestep shift; 1 leaves levels linear, 5 is what Self-Forcing trains with.
    """

    nominal_steps: tuple[int, ...]
    shift: float = 5.0

    def __post_init__(self) -> None:
        steps = self.nominal_steps
        whole = all(isinstance(step, int) for step in steps)
        falling = whole and all(a > b for a, b in zip(steps, steps[1:], strict=False))
        if not steps or not falling or steps[0] > TRAIN_STEPS or steps[-1] < 1:
            raise BadConfig(
                f"steps must be falling integers between 1 and {TRAIN_STEPS}, not {list(steps)}",
                param="steps",
            )
        if self.shift <= 0:
            raise BadConfig(f"shift must be positive, not {self.shift}", param="shift")

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise level of every step, in (0, 1]."""
        table = shifted_sigmas(self.shift)
        return tuple(float(table[TRAIN_STEPS - step]) for step in self.nominal_steps)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """What the network is told at every step, in (0, 1000]."""
        return tuple(TRAIN_STEPS * sigma for sigma in self.sigmas)


def clean_from_flow(noisy: Tensor, flow: Tensor, sigma: float | Tensor) -> Tensor:
    """Estimate of the clean latent, in the dtype of ``noisy``; float64 inside, as the reference does."""
    return (noisy.double() - sigma * flow.double()).to(noisy.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """``(1 - sigma) * clean + sigma * noise``; ``sigma`` is a number or broadcasts against ``clean``."""
    return (1.0 - sigma) * clean + sigma * noise
