"""Which way a clip pans, by phase correlation of its frames (Kuglin and Hines, 1975).

Shapes: T pixel frames, H W rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

_SIZE = (64, 112)
_STRIDE = 4
"""Frames between those compared: neighbours are less than a pixel apart at this size."""
_FURTHEST = 10
_CERTAIN = 0.05


def pan_of(frames_THWC: Tensor) -> str:
    """ "pan left", "pan right" or "still": where the camera goes, which is against the picture's motion.

    Layers move at their own speeds, so it is the weight of all correlations to the left and to the right that
    decides, not their peak.
    """
    grey = functional.interpolate(frames_THWC.float().mean(dim=3)[:, None], size=_SIZE, mode="area")[:, 0]
    # Without the rows' own means: a horizon is the same in all frames and would say "still".
    grey = grey - grey.mean(dim=2, keepdim=True)
    window = torch.hann_window(_SIZE[1], periodic=False)
    spectra = torch.fft.rfft(grey * window, dim=2)
    cross = spectra[_STRIDE:] * spectra[:-_STRIDE].conj()
    correlation = torch.fft.irfft(cross / cross.abs().clamp_min(1e-6), n=_SIZE[1], dim=2).mean(dim=(0, 1))
    right = float(correlation[1 : _FURTHEST + 1].clamp_min(0).square().sum())
    left = float(correlation[-_FURTHEST:].clamp_min(0).square().sum())
    still = float(correlation[0].clamp_min(0).square())
    lean = (right - left) / max(right + left + still, 1e-12)
    if abs(lean) < _CERTAIN:
        return "still"
    return "pan left" if lean > 0 else "pan right"
