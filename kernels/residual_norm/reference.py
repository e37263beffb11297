"""The gated sum and the modulated LayerNorm as their definitions read.

Shapes: B batch, F frames, S tokens of a frame, L = F * S tokens, E width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normed(x_BLE: Tensor, factor: Tensor, offset: Tensor, *, eps: float, dtype: torch.dtype) -> Tensor:
    """``LayerNorm(x) * factor + offset``, computed in float32; (E,) or (B, F, 1, E) for factor and offset."""
    shape = x_BLE.shape[-1:]
    if factor.dim() == 1:
        return F.layer_norm(x_BLE.float(), shape, factor.float(), offset.float(), eps).to(dtype)
    plain_BFSE = F.layer_norm(x_BLE.float(), shape, eps=eps).unflatten(1, (factor.shape[1], -1))
    return torch.addcmul(offset, plain_BFSE, factor).flatten(1, 2).to(dtype)


def add(x_BLE: Tensor, update_BLE: Tensor, gate_BF1E: Tensor | None) -> Tensor:
    """``x + gate * update``; the stream stays float32."""
    if gate_BF1E is None:
        return x_BLE + update_BLE.float()
    frames = gate_BF1E.shape[1]
    update_BFSE = update_BLE.float().unflatten(1, (frames, -1))
    return torch.addcmul(x_BLE.unflatten(1, (frames, -1)), update_BFSE, gate_BF1E).flatten(1, 2)
