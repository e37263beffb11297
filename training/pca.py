"""Principal components of pixel patches, gathered in a stream.

N patches, P values of a patch, C components that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The leading components of patches: orthonormal rows ``basis_CP``, and the deviation along each, largest first.

    ``kept`` is the share of the variance that lies in them. float32.
    """

    mean_P: torch.Tensor
    basis_CP: torch.Tensor
    deviation_C: torch.Tensor
    kept: float


class PatchStatistics:
    """Running mean and covariance of patches, summed in float64 so that their number doesn't matter."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self._sum_P = torch.zeros(size, dtype=torch.float64)
        self._products_PP = torch.zeros(size, size, dtype=torch.float64)

    def add(self, patches_NP: torch.Tensor) -> None:
        """Take in float32 patches. Centre them roughly first: the products are made in float32."""
        self.count += patches_NP.shape[0]
        self._sum_P += patches_NP.sum(0, dtype=torch.float64)
        self._products_PP += patches_NP.T @ patches_NP

    def components(self, channels: int) -> Components:
        """The first ``channels`` principal components of everything that was added.

        Signs are fixed (the sum of each row is positive), so equal data give equal components.
        """
        mean_P = self._sum_P / self.count
        covariance_PP = self._products_PP / self.count - torch.outer(mean_P, mean_P)
        variance_P, vectors_PP = torch.linalg.eigh(covariance_PP.float())
        basis_CP = vectors_PP.T.flip(0)[:channels]
        sign_C = torch.where(basis_CP.sum(1) < 0, -1.0, 1.0)
        variance_C = variance_P.flip(0)[:channels].clamp_min(0)
        return Components(
            mean_P=mean_P.float(),
            basis_CP=(basis_CP * sign_C[:, None]).contiguous(),
            deviation_C=variance_C.sqrt(),
            kept=float(variance_C.sum() / variance_P.sum()),
        )


def latent_scales(deviation_C: torch.Tensor, *, power: float) -> torch.Tensor:
    """Factors (C,) from component to latent: deviations become ``deviation ** power``, their mean square 1.

    Power 0 whitens, which makes a generator spend itself on channels that are close to noise; power 1 keeps the
    pixels' own scale, which buries detail under the mean brightness. In between, an error of a given size in any
    channel costs the eye about the same.
    """
    wanted_C = deviation_C**power
    wanted_C = wanted_C / wanted_C.square().mean().sqrt()
    return wanted_C / deviation_C
