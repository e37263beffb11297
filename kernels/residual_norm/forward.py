"""Launches the Triton kernel of the gated sum and the modulated LayerNorm.

Shapes: B batch, F frames, L tokens, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.launch import launch, tile_width
from ultraflash.kernels.tiles import FALLBACK_ROWS, INTERPRETED_ROWS, Tiles, tiles_for


def run(
    x_BLE: Tensor,
    update_BLE: Tensor | None,
    gate_BF1E: Tensor | None,
    affine: tuple[Tensor, Tensor] | None,
    *,
    eps: float,
    dtype: torch.dtype,
    interpret: bool,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """The new stream, float32, and its norm in ``dtype``; what is not computed is given back as `x_BLE`.

    Args:
        affine: factor and offset of the norm, or None for no norm.
        tiles: by default those of the table; `m` tokens a program.
    """
    from .triton import residual_norm

    batch, tokens, size = x_BLE.shape
    x = x_BLE.float().contiguous()
    update = x if update_BLE is None else update_BLE.contiguous()
    stream = x if update_BLE is None else torch.empty_like(x)
    normed = x if affine is None else torch.empty(x.shape, dtype=dtype, device=x.device)
    factor, offset = (x, x) if affine is None else (_innermost(part.float()) for part in affine)
    gate = x if gate_BF1E is None else _innermost(gate_BF1E.float())
    if tiles is None:
        known = ("residual_norm", x.device, update.dtype if affine is None else dtype, tile_width(size))
        tiles = INTERPRETED_ROWS if interpret else tiles_for(*known, fallback=FALLBACK_ROWS)
    gate_frame_tokens, *gate_strides = _frames(gate_BF1E, gate, tokens)
    factor_frame_tokens, *factor_strides = _frames(None if affine is None else affine[0], factor, tokens)
    _, *offset_strides = _frames(None if affine is None else affine[1], offset, tokens)
    arguments = {
        "stream_ptr": x,
        "update_ptr": update,
        "gate_ptr": gate,
        "factor_ptr": factor,
        "offset_ptr": offset,
        "new_stream_ptr": stream,
        "normed_ptr": normed,
        "rows": batch * tokens,
        "tokens": tokens,
        "gate_tokens": gate_frame_tokens,
        **dict(zip(("gate_batch", "gate_frame"), gate_strides, strict=True)),
        "factor_tokens": factor_frame_tokens,
        **dict(zip(("factor_batch", "factor_frame"), factor_strides, strict=True)),
        **dict(zip(("offset_batch", "offset_frame"), offset_strides, strict=True)),
        "eps": eps,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "TILE_M": tiles.m,
        "UPDATE": update_BLE is not None,
        "GATED": gate_BF1E is not None,
        "NORM": affine is not None,
        "PER_FRAME": affine is not None and affine[0].dim() == 4,
    }
    programs = (-(-batch * tokens // tiles.m),)
    launch(residual_norm, programs, arguments, interpret=interpret, warps=tiles.warps, stages=tiles.stages)
    return stream, normed


def _innermost(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _frames(given: Tensor | None, laid_out: Tensor, tokens: int) -> tuple[int, int, int]:
    """Tokens of a frame, and strides of batch and frame; a batch of one serves all."""
    if given is None or given.dim() == 1:
        return tokens, 0, 0
    per_batch = 0 if given.shape[0] == 1 else laid_out.stride(0)
    return tokens // given.shape[1], per_batch, laid_out.stride(1)
