"""Launches the Triton kernel of block-sparse attention.

Shape legend: B batch, N heads, Q query blocks, K new key blocks, C cached key blocks, T tokens of a block, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.launch import LOG2_E, dot_precision, launch, tile_width
from ultraflash.kernels.tiles import INTERPRETED, Tiles, tiles_for

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
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention (B, Q, T, N, D) in the dtype of the queries, and the log of each row's sum of exponentials.

    The latter is (B, N, Q, T) float32 in natural logarithm, -inf for a query block that selects nothing.
    """
    from .triton import attend_forward

    batch, query_blocks, tokens, heads, size = q_BQTND.shape
    q = q_BQTND.contiguous()
    k, v = alike(k_BKTND, v_BKTND)
    out = torch.empty_like(q)
    lse = torch.empty(batch, heads, query_blocks, tokens, dtype=torch.float32, device=q.device)
    if tiles is None:
        narrow = past is not None and past.scales is not None
        name = "attend_forward_int8" if narrow else "attend_forward"
        tiles = INTERPRETED if interpret else tiles_for(name, q.device, q.dtype, tile_width(size))
    tile_m, tile_j = min(tiles.m, tile_width(tokens)), min(tiles.j, tile_width(tokens))
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        **past_arguments(past, k, v),
        "row_ptr": selection.row_ptr,
        "col_idx": selection.col_idx,
        "out_ptr": out,
        "lse_ptr": lse,
        **strides("new", k),
        "heads": heads,
        "query_blocks": query_blocks,
        "score_scale": LOG2_E / size**0.5,
        "T": tokens,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "TILE_M": tile_m,
        "TILE_J": tile_j,
        "PRECISION": dot_precision(q.dtype, interpret=interpret),
    }
    programs = (batch * heads * query_blocks * -(-tokens // tile_m),)
    launch(attend_forward, programs, arguments, interpret=interpret, warps=tiles.warps, stages=tiles.stages)
    return out, lse


def past_arguments(past: PastBlocks | None, k: Tensor, v: Tensor) -> dict[str, object]:
    """Arguments about the cache; where there is none, the new keys stand in for pointers that are never read."""
    if past is None or past.counted.count == 0:
        return {
            "cached_k_ptr": k,
            "cached_v_ptr": v,
            "k_scale_ptr": k,
            "v_scale_ptr": v,
            **strides("cached", k),
            "scale_batch": 0,
            "cached_blocks": 0,
            "cached_first": 0,
            "ring_blocks": 0,
            "CACHED": False,
            "RING": False,
            "QUANTIZED": False,
        }
    cached_k, cached_v = alike(past.k_BRTND, past.v_BRTND)
    k_scale, v_scale = cached_k, cached_v
    if past.scales is not None:
        k_scale, v_scale = (_contiguous_but_batch(scale) for scale in past.scales)
        if k_scale.stride(0) != v_scale.stride(0):
            k_scale, v_scale = k_scale.contiguous(), v_scale.contiguous()
    return {
        "cached_k_ptr": cached_k,
        "cached_v_ptr": cached_v,
        "k_scale_ptr": k_scale,
        "v_scale_ptr": v_scale,
        **strides("cached", cached_k),
        "scale_batch": k_scale.stride(0),
        "cached_blocks": past.counted.count,
        "cached_first": past.counted.first,
        "ring_blocks": cached_k.shape[1],
        "CACHED": True,
        "RING": past.span is not None,
        "QUANTIZED": past.scales is not None,
    }


def alike(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with the same strides and D innermost. Caches and fresh blocks are; others are copied."""
    if k.stride() == v.stride() and k.stride(-1) == 1:
        return k, v
    return k.contiguous(), v.contiguous()


def _contiguous_but_batch(scale_BCTN: Tensor) -> Tensor:
    return scale_BCTN if scale_BCTN[0].is_contiguous() else scale_BCTN.contiguous()


def strides(prefix: str, x_BGTND: Tensor) -> dict[str, int]:
    names = ("batch", "block", "token", "head")
    return {f"{prefix}_{name}": x_BGTND.stride(axis) for axis, name in enumerate(names)}
