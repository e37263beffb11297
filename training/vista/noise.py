"""Seeded value noise on separable lattices.

Shapes: W columns, H rows. Noise over an axis-aligned grid is `rows @ lattice @ columns`, three small matrix
products, so one octave costs about as much as copying the picture.
"""

import torch
from torch import Tensor

_LATTICE_ROWS = 128
_LATTICE_COLUMNS = 512


def table(seed: int, *size: int) -> Tensor:
    """Uniform float32 numbers in [0, 1) that depend on `seed` alone."""
    generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF)
    return torch.rand(size, generator=generator)


def smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    """Hermite step from 0 at `low` to 1 at `high`."""
    ramp = ((value - low) / (high - low)).clamp_(0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def _interpolation(position_N: Tensor) -> tuple[Tensor, int]:
    """Matrix (N, K) that interpolates K consecutive lattice values at N positions, and the first lattice index."""
    if position_N.numel() == 0:
        return torch.zeros(0, 2), 0
    cell_N = position_N.floor()
    first = int(cell_N.min().item())
    count = int(cell_N.max().item()) - first + 2
    ramp_N = (position_N - cell_N).float()
    ramp_N = ramp_N * ramp_N * ramp_N * (ramp_N * (ramp_N * 6.0 - 15.0) + 10.0)
    index_N1 = (cell_N - first).long().unsqueeze(1)
    matrix_NK = torch.zeros(position_N.numel(), count)
    matrix_NK.scatter_(1, index_N1, (1.0 - ramp_N).unsqueeze(1))
    matrix_NK.scatter_(1, index_N1 + 1, ramp_N.unsqueeze(1))
    return matrix_NK, first


def fbm(
    seed: int,
    x_W: Tensor,
    y_H: Tensor,
    *,
    freq: tuple[float, float],
    octaves: int,
    gain: float = 0.5,
    ppu: float,
) -> Tensor:
    """Fractal noise (H, W), float32, about [-1, 1], of float64 world coordinates.

    `freq` counts lattice cells per unit along (x, y) in the first octave. Octaves that `ppu` pixels per unit can't
    show are faded out, so that a small picture is a smoothed large one and not an aliased one.
    """
    lattice = table(seed, _LATTICE_ROWS, _LATTICE_COLUMNS) * 2.0 - 1.0
    total_HW = torch.zeros(y_H.numel(), x_W.numel())
    if total_HW.numel() == 0:
        return total_HW
    amplitude, norm = 1.0, 0.0
    for octave in range(octaves):
        scale = 2.0**octave
        shown = min(1.0, max(0.0, ppu / (max(freq) * scale) / 1.5 - 1.0))
        norm += amplitude * amplitude
        if shown > 0.0:
            columns_WK, left = _interpolation(x_W * (freq[0] * scale) + 17.3 * octave)
            rows_HK, top = _interpolation(y_H * (freq[1] * scale) + 31.7 * octave)
            picked = lattice[(torch.arange(rows_HK.shape[1]) + top) % _LATTICE_ROWS]
            picked = picked[:, (torch.arange(columns_WK.shape[1]) + left) % _LATTICE_COLUMNS]
            total_HW += (rows_HK @ picked * (amplitude * shown)) @ columns_WK.T
        amplitude *= gain
    return total_HW / norm**0.5 * 1.2


def fbm_line(seed: int, x_W: Tensor, *, freq: float, octaves: int, gain: float = 0.5, ppu: float) -> Tensor:
    """Fractal noise (W,) along one axis; see `fbm`."""
    zero = torch.full((1,), 0.37, dtype=torch.float64)
    return fbm(seed, x_W, zero, freq=(freq, 1e-3), octaves=octaves, gain=gain, ppu=ppu)[0]
