"""Shares and means with the uncertainty that their sample size leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number with its 95% interval and the count of what it was taken over."""

    value: float
    low: float
    high: float
    count: int


def share(right: int, count: int) -> Measure:
    """``right`` of ``count`` with Wilson's score interval (1927), which holds near 0 and 1 too."""
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} of {count} is no share")
    p = right / count
    scale = 1 + Z95**2 / count
    centre = (p + Z95**2 / (2 * count)) / scale
    half = Z95 * math.sqrt(p * (1 - p) / count + Z95**2 / (4 * count**2)) / scale
    return Measure(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half), count=count)


def mean(values: Sequence[float], *, seed: int = 0, draws: int = 1000) -> Measure:
    """The mean of ``values`` with a bootstrap interval (percentiles of resampled means)."""
    if not values:
        raise ValueError("no values to average")
    data = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(data), (draws, len(data)), generator=generator)
    low, high = data[picks].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Measure(value=float(data.mean()), low=low, high=high, count=len(data))
