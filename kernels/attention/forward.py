"""Launches the Triton kernel of dense attention over a cache.

Shape legend: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.launch import LOG2_E, dot_precision, launch, tile_width
from ultraflash.kernels.tiles import INTERPRETED, Tiles, tiles_for


def attend(
    q_BLND: Tensor,
    k_BMND: Tensor,
    v_BMND: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    *,
    interpret: bool,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention (B, L, N, D) in the dtype of the queries, and lse (B, N, L) float32 in natural logarithm.

    Keys and values may be views into a larger buffer; they are not copied. With `scales`, two float32 (B, M, N), they
    are int8. At least one key.
    """
    from .triton import attend_dense

    batch, queries, heads, size = q_BLND.shape
    keys = k_BMND.shape[1]
    q = q_BLND if q_BLND.stride(-1) == 1 else q_BLND.contiguous()
    k, v = k_BMND, v_BMND
    if k.stride() != v.stride() or k.stride(-1) != 1:
        k, v = k.contiguous(), v.contiguous()
    k_scale, v_scale = (k, v) if scales is None else _alike(*scales)
    out = torch.empty(batch, queries, heads, size, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    if tiles is None:
        name = "attend_dense" if scales is None else "attend_dense_int8"
        tiles = INTERPRETED if interpret else tiles_for(name, q.device, q.dtype, tile_width(size))
    tile_m, tile_j = min(tiles.m, tile_width(queries)), min(tiles.j, tile_width(keys))
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "k_scale_ptr": k_scale,
        "v_scale_ptr": v_scale,
        "out_ptr": out,
        "lse_ptr": lse,
        **{f"q_{name}": q.stride(axis) for axis, name in enumerate(("batch", "token", "head"))},
        **{f"k_{name}": k.stride(axis) for axis, name in enumerate(("batch", "token", "head"))},
        "scale_batch": k_scale.stride(0),
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "score_scale": LOG2_E / size**0.5,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "TILE_M": tile_m,
        "TILE_J": tile_j,
        "PRECISION": dot_precision(q.dtype, interpret=interpret),
        "QUANTIZED": scales is not None,
    }
    programs = (-(-queries // tile_m), batch * heads)
    launch(attend_dense, programs, arguments, interpret=interpret, warps=tiles.warps, stages=tiles.stages)
    return out, lse


def _alike(k_scale_BMN: Tensor, v_scale_BMN: Tensor) -> tuple[Tensor, Tensor]:
    """Scales with the same strides, each sample in one piece; those of a cache are, others are copied."""
    if k_scale_BMN.stride() == v_scale_BMN.stride() and k_scale_BMN[0].is_contiguous():
        return k_scale_BMN, v_scale_BMN
    return k_scale_BMN.contiguous(), v_scale_BMN.contiguous()
