"""Block-sparse attention that touches only the selected blocks, in plain PyTorch.

Shape legend: B batch, N heads, Q query blocks, K key blocks, G blocks, T tokens of a block, D head size, R query rows,
that is (batch, head, query block) triples, P query rows that select the same number of key blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .past import PastBlocks
from .selection import BlockSelection

GATHERED = 2**24
"""Numbers of keys, and as many of values, that are gathered at a time, or one query row's where it has more."""


def attend(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    selection: BlockSelection,
    past: PastBlocks | None = None,
) -> Tensor:
    """The same result as `reference.attend`, in time proportional to the number of selected pairs.

    Query rows that select equally many key blocks are computed together, so nothing is padded and no mask is
    needed. Keys are gathered per such group rather than all at once: what was gathered is still in the
    processor's cache when it is used, which measured 1.5 times as fast. Large groups are split, so that memory for
    them does not grow with the number of pairs.
    """
    past_k, past_v = ([], []) if past is None else past.parts(q_BQTND.dtype)
    q_RTD, k_blocks, v_blocks = _by_head(q_BQTND), _by_head(*past_k, k_BKTND), _by_head(*past_v, v_BKTND)
    starts = selection.row_ptr[:-1].long()
    counts = selection.row_ptr.diff().long()
    col_idx = selection.col_idx.long()
    first_block = (
        torch.arange(len(counts), device=counts.device) // selection.query_blocks * selection.key_blocks
    )

    done: list[Tensor] = []
    order: list[Tensor] = []
    batch, query_blocks, tokens, heads, size = q_BQTND.shape
    for count in sorted(set(counts.tolist())):
        together = max(1, GATHERED // max(1, count * tokens * size))
        for rows in (counts == count).nonzero()[:, 0].split(together):
            picks = starts[rows, None] + torch.arange(count, device=rows.device)
            blocks = (col_idx[picks] + first_block[rows, None]).flatten()
            done.append(_attend_equal_rows(q_RTD[rows], k_blocks, v_blocks, blocks))
            order.append(rows)
    out_RTD = torch.cat(done)[torch.cat(order).argsort()]
    return out_RTD.view(batch, heads, query_blocks, tokens, size).permute(0, 2, 3, 1, 4)


def _attend_equal_rows(q_PTD: Tensor, k_blocks: Tensor, v_blocks: Tensor, blocks: Tensor) -> Tensor:
    """Attention of P query rows, each to its len(blocks) / P blocks: (P, T, D)."""
    if len(blocks) == 0:
        return torch.zeros_like(q_PTD)
    rows, _, size = q_PTD.shape
    k_P1JD = k_blocks.index_select(0, blocks).view(rows, 1, -1, size)
    v_P1JD = v_blocks.index_select(0, blocks).view(rows, 1, -1, size)
    return F.scaled_dot_product_attention(q_PTD[:, None], k_P1JD, v_P1JD)[:, 0]


def _by_head(*parts_BGTND: Tensor) -> Tensor:
    """(B, G, T, N, D) each -> (B * N * all G, T, D), so that one block of one head lies in one piece.

    Parts are joined and reordered in one pass, whichever buffers they lie in.
    """
    parts_BNGTD = [x.permute(0, 3, 1, 2, 4) for x in parts_BGTND]
    joined = parts_BNGTD[0] if len(parts_BNGTD) == 1 else torch.cat(parts_BNGTD, dim=2)
    return joined.flatten(0, 2)
