"""Attention as two plain matrix products: the faster way on a CPU where a gradient is wanted, since the fused
operator's backward pass takes several times its forward there.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """Softmax attention, scaled by ``1/sqrt(D)``; all scores lie in memory at once."""
    batch, _, heads, size = q_BLND.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLND * size**-0.5, k_BMND, v_BMND))
    scores = q @ k.transpose(1, 2)
    # Autocast would take the softmax to float32 and back.
    with torch.autocast(scores.device.type, enabled=False):
        weights = scores.softmax(dim=-1)
    return (weights @ v).unflatten(0, (batch, heads)).transpose(1, 2)
