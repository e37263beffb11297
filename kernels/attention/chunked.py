"""Dense attention in two matrix products per chunk of queries: runs wherever PyTorch does, in memory that does not grow
with the number of queries.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024
"""Queries of one product."""


def attend(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """Softmax attention (B, L, N, D); the weights are summed in float32."""
    keys_BNDM = k_BMND.permute(0, 2, 3, 1)
    values_BNMD = v_BMND.transpose(1, 2)
    scale = q_BLND.shape[-1] ** -0.5
    parts = []
    for part_BLND in q_BLND.split(CHUNK, dim=1):
        scores_BNLM = torch.matmul(part_BLND.transpose(1, 2) * scale, keys_BNDM)
        weights_BNLM = scores_BNLM.softmax(dim=-1, dtype=torch.float32).to(q_BLND.dtype)
        parts.append(torch.matmul(weights_BNLM, values_BNMD).transpose(1, 2))
    return torch.cat(parts, dim=1)
