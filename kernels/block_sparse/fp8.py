"""Block-sparse attention over 8-bit floating point: rounds its inputs and launches the Triton kernel.

Shape legend: B batch, N heads, Q query blocks, K key blocks (cached ones first), T tokens of a block, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable
from ultraflash.kernels.launch import LOG2_E, dot_precision, launch, tile_width
from ultraflash.kernels.quantization import FLOAT8, quantize_blocks
from ultraflash.kernels.tiles import INTERPRETED, Tiles, tiles_for

from .past import PastBlocks
from .selection import BlockSelection

CAPABILITY = (8, 9)
"""The first NVIDIA devices whose tensor cores take e4m3."""

DEPTH = 32
"""Tensor cores sum at least so many products of 8-bit numbers at a time: over channels, and over keys of a tile."""


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
    """Attention and lse as `forward.attend` has them, from queries, keys and values rounded to e4m3 by block and head.

    Raises:
        ValueError: a gradient is wanted.
        BackendUnavailable: the GPU has no tensor cores for e4m3.
    """
    if past is not None:
        cached_k, cached_v = past.dense(q_BQTND.dtype)
        k_BKTND, v_BKTND = torch.cat([cached_k, k_BKTND], dim=1), torch.cat([cached_v, v_BKTND], dim=1)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BQTND, k_BKTND, v_BKTND)):
        raise ValueError(
            "block-sparse attention in 8-bit floating point has no gradient; choose another backend"
        )
    if not interpret:
        _check_device(q_BQTND.device)
    (q, q_scale), (k, k_scale), (v, v_scale) = (quantize_blocks(x) for x in (q_BQTND, k_BKTND, v_BKTND))
    return _launch(q, k, v, (q_scale, k_scale, v_scale), selection, q_BQTND.dtype, interpret, tiles)


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scales: tuple[Tensor, Tensor, Tensor],
    selection: BlockSelection,
    dtype: torch.dtype,
    interpret: bool,
    tiles: Tiles | None,
) -> tuple[Tensor, Tensor]:
    from .triton_fp8 import attend_fp8

    batch, query_blocks, tokens, heads, size = q.shape
    q, k, v = (x.contiguous().view(torch.uint8) if interpret else x.contiguous() for x in (q, k, v))
    q_scale, k_scale, v_scale = (scale.contiguous() for scale in scales)
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    lse = torch.empty(batch, heads, query_blocks, tokens, dtype=torch.float32, device=q.device)
    if tiles is None:
        tiles = INTERPRETED if interpret else tiles_for("attend_fp8", q.device, FLOAT8, tile_width(size))
    tile_m, tile_j = min(tiles.m, tile_width(tokens)), max(DEPTH, min(tiles.j, tile_width(tokens)))
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "q_scale_ptr": q_scale,
        "k_scale_ptr": k_scale,
        "v_scale_ptr": v_scale,
        "row_ptr": selection.row_ptr,
        "col_idx": selection.col_idx,
        "out_ptr": out,
        "lse_ptr": lse,
        "heads": heads,
        "query_blocks": query_blocks,
        "key_blocks": k.shape[1],
        "score_scale": LOG2_E / size**0.5,
        "T": tokens,
        "SIZE": size,
        "WIDTH": max(DEPTH, tile_width(size)),
        "TILE_M": tile_m,
        "TILE_J": tile_j,
        "PRECISION": dot_precision(FLOAT8, interpret=interpret),
    }
    programs = (batch * heads * query_blocks * -(-tokens // tile_m),)
    launch(attend_fp8, programs, arguments, interpret=interpret, warps=tiles.warps, stages=tiles.stages)
    return out, lse


def _check_device(device: torch.device) -> None:
    if torch.version.hip or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise BackendUnavailable(
            f"the block-sparse backend 'fp8' needs an NVIDIA GPU of compute capability 8.9 or newer, not "
            f"{torch.cuda.get_device_name(device)}; choose triton"
        )
