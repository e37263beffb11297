"""Three-axis rotary position embedding of the Wan transformers.

Shapes: L tokens = F frames * h rows * w columns, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10000.0


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of the D/2 rotation pairs time, height and width take: what thirds leave over goes to time."""
    pairs = head_dim // 2
    third = pairs // 3
    return pairs - 2 * third, third, third


def _angles(positions: Tensor, pairs: int) -> Tensor:
    frequencies = THETA ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    return torch.outer(positions.double(), frequencies)


def rope_table(frames: Tensor, rows: int, cols: int, head_dim: int) -> Tensor:
    """Cosines and sines for a grid of tokens.

    Args:
        frames: absolute frame positions, integer tensor (F,); they need not be consecutive.
        rows, cols: token rows and columns of a frame.
        head_dim: D, even.

    Returns:
        float32 (2, L, 1, D/2), cosines then sines; tokens frame-major, then rows, then columns.
    """
    device = frames.device
    time, height, width = axis_pairs(head_dim)
    grid = (len(frames), rows, cols)
    angle = torch.cat(
        [
            _angles(frames, time)[:, None, None, :].expand(*grid, time),
            _angles(torch.arange(rows, device=device), height)[None, :, None, :].expand(*grid, height),
            _angles(torch.arange(cols, device=device), width)[None, None, :, :].expand(*grid, width),
        ],
        dim=-1,
    ).reshape(-1, 1, head_dim // 2)
    return torch.stack((angle.cos(), angle.sin())).float()
