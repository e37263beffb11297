"""Dense attention over tokens in (B, L, N, D) layout.

Backends:

- ``sdpa``: PyTorch's own; what ``auto`` is. It reads a cache in place as well, so a kernel of ours has to be measured
  faster first;
- ``triton``: our kernel on a GPU, the one that reads 8-bit keys and values without widening them in memory. It has no
  gradient;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable, check_backend
from ultraflash.kernels.quantization import dequantize

from . import forward

__all__ = ["BackendUnavailable", "dense_attention"]

BACKENDS = ("sdpa", "triton", "interpreter")


def dense_attention(
    q_BLND: Tensor,
    k_BMND: Tensor,
    v_BMND: Tensor,
    *,
    k_scale_BMN: Tensor | None = None,
    v_scale_BMN: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of every query over every key, scaled by ``1/sqrt(D)``; returns (B, L, N, D).

    Args:
        q_BLND: queries.
        k_BMND, v_BMND: keys and values, dtype of the queries, or int8 given with scales. Views are read in place.
        k_scale_BMN, v_scale_BMN: float32 scales of int8 keys and values, see `quantization.quantize`.
        backend: "auto", or the name of one of the backends.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: one of the scales without the other, or a gradient wanted of a backend that has none.
    """
    if (k_scale_BMN is None) != (v_scale_BMN is None):
        raise ValueError("scales of keys and of values must be given together")
    if backend not in ("auto", "sdpa"):
        return _by_kernel(q_BLND, k_BMND, v_BMND, k_scale_BMN, v_scale_BMN, backend)
    if k_scale_BMN is not None and v_scale_BMN is not None:
        k_BMND = dequantize(k_BMND, k_scale_BMN, q_BLND.dtype)
        v_BMND = dequantize(v_BMND, v_scale_BMN, q_BLND.dtype)
    out = F.scaled_dot_product_attention(
        q_BLND.transpose(1, 2), k_BMND.transpose(1, 2), v_BMND.transpose(1, 2)
    )
    return out.transpose(1, 2)


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, k_scale: Tensor | None, v_scale: Tensor | None, backend: str
) -> Tensor:
    check_backend("dense attention", backend, BACKENDS, q.device.type)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(f"dense attention by {backend!r} has no gradient; choose 'sdpa'")
    scales = None if k_scale is None or v_scale is None else (k_scale, v_scale)
    return forward.attend(q, k, v, scales, interpret=backend == "interpreter")[0]
