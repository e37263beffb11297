"""Linear maps with the least squared error, from sums that grow as data comes in.

Shapes: M examples, K inputs, D outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class NormalEquations:
    """The sums that determine a linear map, in float64."""

    def __init__(self) -> None:
        """Start without examples."""
        self._gram_KK: Tensor | None = None
        self._moment_KD: Tensor | None = None
        self._examples = 0

    def add(self, x_MK: Tensor, y_MD: Tensor) -> None:
        """Take in examples. A constant that the map may add is an input of ones."""
        # Products in the inputs' own precision: sums over one call are short, and float64 takes ten times as long.
        gram_KK, moment_KD = (x_MK.T @ x_MK).double(), (x_MK.T @ y_MD).double()
        if self._gram_KK is None or self._moment_KD is None:
            self._gram_KK, self._moment_KD = gram_KK, moment_KD
        else:
            self._gram_KK += gram_KK
            self._moment_KD += moment_KD
        self._examples += x_MK.shape[0]

    def solve(self, ridge: float) -> Tensor:
        """The map (K, D), float32.

        Args:
            ridge: penalty of squared weights per example, in the inputs' unit squared.

        Raises:
            ValueError: there are no examples.
        """
        if self._gram_KK is None or self._moment_KD is None:
            raise ValueError("no examples to fit a map to")
        identity_KK = torch.eye(self._gram_KK.shape[0], dtype=torch.float64, device=self._gram_KK.device)
        return torch.linalg.solve(
            self._gram_KK + ridge * self._examples * identity_KK, self._moment_KD
        ).float()


def with_constant(x_MK: Tensor) -> Tensor:
    """Inputs and a last one of ones, (M, K+1)."""
    return torch.cat([x_MK, torch.ones_like(x_MK[:, :1])], dim=1)
