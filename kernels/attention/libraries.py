"""Dense attention by others' kernels on a GPU: cuDNN's, which PyTorch has but does not choose by itself, and those of
packages that people may have beside PyTorch. The latter have not run on a GPU yet.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

PACKAGES = {"flash": "flash_attn", "xformers": "xformers"}
"""The package of each backend."""


def cudnn(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    """cuDNN's, (B, L, N, D): bfloat16 or float16, no gradient.

    By its operator: `torch.nn.attention.sdpa_kernel` switches the others off for all threads of the process.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BMND, v_BMND))
    with_sums = False  # over the keys, which only a gradient needs
    out_BNLD: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, with_sums)[0]
    return out_BNLD.transpose(1, 2)


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
