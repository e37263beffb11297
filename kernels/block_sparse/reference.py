"""Block-sparse attention as its definition reads: dense attention under a mask.

Shape legend: B batch, N heads, Q query blocks, K key blocks, T tokens of a block, D head size, I J query
and key tokens.
"""

from __future__ import annotations

from torch import Tensor

from .selection import BlockSelection


def attend(q_BQTND: Tensor, k_BKTND: Tensor, v_BKTND: Tensor, selection: BlockSelection) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the tokens of the selected blocks; zeros where none is selected.

    Time and memory grow with Q * K, however sparse the selection is.
    """
    tokens = q_BQTND.shape[2]
    q_BNID, k_BNJD, v_BNJD = (x.flatten(1, 2).transpose(1, 2) for x in (q_BQTND, k_BKTND, v_BKTND))
    mask_BNIJ = selection.to_mask().repeat_interleave(tokens, dim=2).repeat_interleave(tokens, dim=3)
    logits_BNIJ = (q_BNID @ k_BNJD.transpose(-1, -2)) / q_BNID.shape[-1] ** 0.5
    lowest = -1e30  # finite, so that a row without a selected block has no NaN, in its gradient neither
    weights_BNIJ = logits_BNIJ.float().masked_fill(~mask_BNIJ, lowest).softmax(dim=-1) * mask_BNIJ
    out_BNID: Tensor = weights_BNIJ.to(v_BNJD.dtype) @ v_BNJD
    return out_BNID.transpose(1, 2).reshape(q_BQTND.shape)
