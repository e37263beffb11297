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
        gram_KK, moment_KD = self._with_ridge(ridge)
        return torch.linalg.solve(gram_KK, moment_KD).float()

    def solve_in_two(self, ridge: float, rank: int) -> tuple[Tensor, Tensor]:
        """The best map of at most this rank, in two steps: (K, R) and (R, D), float32; R is the rank, or less where
        there are fewer inputs or outputs.

        It is the whole map, projected to the directions in which its results vary most (reduced-rank regression).

        Args:
            ridge: as in `solve`.
            rank: R.

        Raises:
            ValueError: there are no examples, or rank is below 1.
        """
        if rank < 1:
            raise ValueError(f"a map has a rank of 1 or more, not {rank}")
        gram_KK, moment_KD = self._with_ridge(ridge)
        root_KK = torch.linalg.cholesky(gram_KK)
        map_KD = torch.cholesky_solve(moment_KD, root_KK)
        directions_DR = torch.linalg.svd(root_KK.T @ map_KD, full_matrices=False).Vh[:rank].T
        return (map_KD @ directions_DR).float(), directions_DR.T.float()

    def _with_ridge(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Both sides of the equations. Raises ValueError where there are no examples."""
        if self._gram_KK is None or self._moment_KD is None:
            raise ValueError("no examples to fit a map to")
        identity_KK = torch.eye(self._gram_KK.shape[0], dtype=torch.float64, device=self._gram_KK.device)
        return self._gram_KK + ridge * self._examples * identity_KK, self._moment_KD


def with_constant(x_MK: Tensor) -> Tensor:
    """Inputs and a last one of ones, (M, K+1)."""
    return torch.cat([x_MK, torch.ones_like(x_MK[:, :1])], dim=1)
