"""Dense attention over tokens in (B, L, N, D) layout.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dense_attention(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """Softmax attention of every query over every key, scaled by ``1/sqrt(D)``; returns (B, L, N, D)."""
    out = F.scaled_dot_product_attention(
        q_BLND.transpose(1, 2), k_BMND.transpose(1, 2), v_BMND.transpose(1, 2)
    )
    return out.transpose(1, 2)
