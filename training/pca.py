"""Principal components of patches, gathered in a stream, and the scale of the latents that they become.

N patches, P values of a patch, C components that are kept.
"""

from __future__ import annotations

import torch

from ultraflash.models.patch_autoencoder import PatchBasis


class PatchStatistics:
    """Running mean and covariance of patches, summed in float64 so that their number doesn't matter."""

    def __init__(self, size: int, *, centre: float = 0.0) -> None:
        """Start empty. ``centre`` is taken off every value first: the products are made in float32."""
        self.count = 0
        self._centre = centre
        self._sum_P = torch.zeros(size, dtype=torch.float64)
        self._products_PP = torch.zeros(size, size, dtype=torch.float64)

    def add(self, patches_NP: torch.Tensor) -> None:
        """Take in float32 patches."""
        patches_NP = patches_NP - self._centre
        self.count += patches_NP.shape[0]
        self._sum_P += patches_NP.sum(0, dtype=torch.float64)
        self._products_PP += patches_NP.T @ patches_NP

    def basis(self, channels: int) -> tuple[PatchBasis, float]:
        """The first ``channels`` principal components, and the share of the variance that lies in them.

        Signs are fixed (the sum of each row is positive), so equal data give an equal basis.
        """
        mean_P = self._sum_P / self.count
        covariance_PP = self._products_PP / self.count - torch.outer(mean_P, mean_P)
        variance_P, vectors_PP = torch.linalg.eigh(covariance_PP.float())
        components_CP = vectors_PP.T.flip(0)[:channels]
        sign_C = torch.where(components_CP.sum(1) < 0, -1.0, 1.0)
        variance_C = variance_P.flip(0)[:channels].clamp_min(0)
        basis = PatchBasis(
            mean_P=(mean_P + self._centre).float(),
            components_CP=(components_CP * sign_C[:, None]).contiguous(),
            sigma_C=variance_C.sqrt(),
        )
        return basis, float(variance_C.sum() / variance_P.sum())


def latent_scale(sigma_C: torch.Tensor, *, power: float) -> torch.Tensor:
    """Factors (C,) that turn the deviations into ``sigma ** power``, scaled to a mean square of 1.

    Power 0 whitens, and a generator spends itself on channels that are close to noise; power 1 keeps the pixels' own
    spectrum, in which detail is buried under brightness and vanishes at the first bit of noise.
    """
    wanted_C = sigma_C**power
    return wanted_C / wanted_C.square().mean().sqrt() / sigma_C
