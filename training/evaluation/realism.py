"""Frechet distance of features: how far the pictures of two collections are apart as distributions.

Shapes: N samples, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig


def frechet_distance(first_NE: Tensor, second_NE: Tensor) -> float:
    """``|m1 - m2|**2 + tr(C1 + C2 - 2 (C1 C2)**0.5)`` of Gaussians fitted to both (Heusel et al., 2017), in float64.

    Raises:
        BadConfig: a collection has fewer than two samples.
    """
    if min(first_NE.shape[0], second_NE.shape[0]) < 2:
        raise BadConfig("a distribution needs two samples or more")
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(x.double()) for x in (first_NE, second_NE))
    root_a = _root(cov_a)
    # tr (A B)**0.5 = tr (A**0.5 B A**0.5)**0.5, and what is inside is symmetric.
    mixed = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * mixed)


def _moments(x_NE: Tensor) -> tuple[Tensor, Tensor]:
    return x_NE.mean(0), torch.cov(x_NE.T)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
