"""Block-sparse attention by Triton kernels, with its gradient.

Shape legend: B batch, N heads, Q query blocks, K new key blocks, C cached key blocks, T tokens of a block, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import backward, forward
from .past import PastBlocks
from .selection import BlockSelection


def attend(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    selection: BlockSelection,
    past: PastBlocks | None,
    *,
    interpret: bool,
) -> Tensor:
    """Attention (B, Q, T, N, D), differentiable in queries, keys and values, cached ones included.

    Raises:
        ValueError: a gradient is wanted over 8-bit keys and values.
    """
    cached = () if past is None else (past.k_BRTND, past.v_BRTND)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BQTND, k_BKTND, v_BKTND, *cached))
    if not wanted:
        return forward.attend(q_BQTND, k_BKTND, v_BKTND, selection, past, interpret=interpret)[0]
    if past is not None and past.scales is not None:
        raise ValueError(
            "there is no gradient over 8-bit keys and values; train with a cache in a floating dtype"
        )
    # The gradient is by block in order, so a ring is straightened out; training has none.
    cached_k, cached_v = (None, None) if past is None else past.dense(q_BQTND.dtype)
    out: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        q_BQTND, k_BKTND, v_BKTND, cached_k, cached_v, selection, interpret
    )
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cached_k: Tensor | None,
        cached_v: Tensor | None,
        selection: BlockSelection,
        interpret: bool,
    ) -> Tensor:
        out, lse = forward.attend(q, k, v, selection, _past(cached_k, cached_v), interpret=interpret)
        ctx.save_for_backward(q, k, v, cached_k, cached_v, out, lse)
        ctx.selection, ctx.interpret = selection, interpret
        return out

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cached_k, cached_v, out, lse = ctx.saved_tensors
        incoming = backward.Incoming(
            q_BQTND=q, out_BQTND=out, lse_BNQT=lse, d_out_BQTND=d_outs[0], selection=ctx.selection
        )
        past = _past(cached_k, cached_v)
        d_q = backward.query_gradient(incoming, k, v, past, interpret=ctx.interpret)
        first = 0 if past is None else past.counted.count
        d_k, d_v = backward.key_gradient(incoming, k, v, first_block=first, interpret=ctx.interpret)
        d_cached_k = d_cached_v = None
        if past is not None and (ctx.needs_input_grad[3] or ctx.needs_input_grad[4]):
            d_cached_k, d_cached_v = backward.key_gradient(
                incoming, past.k_BRTND, past.v_BRTND, first_block=0, interpret=ctx.interpret
            )
        return d_q, d_k, d_v, d_cached_k, d_cached_v, None, None


def _past(cached_k: Tensor | None, cached_v: Tensor | None) -> PastBlocks | None:
    return None if cached_k is None or cached_v is None else PastBlocks(k_BRTND=cached_k, v_BRTND=cached_v)
