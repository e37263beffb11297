"""Dense attention by packages that people may have beside PyTorch, on a GPU: FlashAttention and xformers.

Neither has run here yet.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

from torch import Tensor

PACKAGES = {"flash": "flash_attn", "xformers": "xformers"}
"""The package of each backend."""


def flash(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """FlashAttention, (B, L, N, D): bfloat16 or float16 only."""
    from flash_attn import flash_attn_func

    out_BLND: Tensor = flash_attn_func(q_BLND, k_BMND, v_BMND)
    return out_BLND


def xformers(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """The memory-efficient attention of xformers, (B, L, N, D)."""
    from xformers.ops import memory_efficient_attention

    out_BLND: Tensor = memory_efficient_attention(q_BLND, k_BMND, v_BMND)
    return out_BLND
