"""Launches the Triton kernels of block-sparse attention, backward.

Shape legend: B batch, N heads, Q query blocks, K key blocks of one memory, T tokens of a block, D head size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.launch import LOG2_E, dot_precision, launch, tile_width
from ultraflash.kernels.tiles import INTERPRETED, Tiles, tiles_for

from .forward import alike, past_arguments, strides
from .past import PastBlocks
from .selection import BlockSelection

# Arguments about a cache that only the forward kernel has.
_FORWARD_ONLY = (
    "k_scale_ptr",
    "v_scale_ptr",
    "scale_batch",
    "cached_first",
    "ring_blocks",
    "RING",
    "QUANTIZED",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Incoming:
    """What both backward kernels start from: queries, result, and the gradient of the result.

    Attributes:
        q_BQTND, out_BQTND, d_out_BQTND: dtype of the queries.
        lse_BNQT: float32, as `forward.attend` returns it.
    """

    q_BQTND: Tensor
    out_BQTND: Tensor
    lse_BNQT: Tensor
    d_out_BQTND: Tensor
    selection: BlockSelection

    @functools.cached_property
    def delta_BNQT(self) -> Tensor:
        """Sum over D of out * d_out: what the softmax takes off every gradient of a row."""
        return (
            (self.out_BQTND.float() * self.d_out_BQTND.float()).sum(dim=-1).permute(0, 3, 1, 2).contiguous()
        )

    @functools.cached_property
    def columns(self) -> tuple[Tensor, Tensor]:
        """The selection by key block."""
        return self.selection.transposed()

    def arguments(self, tiles: Tiles, *, interpret: bool) -> dict[str, object]:
        """Arguments that both kernels take."""
        _, query_blocks, tokens, heads, size = self.q_BQTND.shape
        return {
            "q_ptr": self.q_BQTND.contiguous(),
            "d_out_ptr": self.d_out_BQTND.contiguous(),
            "lse_ptr": self.lse_BNQT,
            "delta_ptr": self.delta_BNQT,
            "heads": heads,
            "query_blocks": query_blocks,
            "score_scale": LOG2_E / size**0.5,
            "T": tokens,
            "SIZE": size,
            "WIDTH": tile_width(size),
            "TILE_M": min(tiles.m, tile_width(tokens)),
            "TILE_J": min(tiles.j, tile_width(tokens)),
            "PRECISION": dot_precision(self.q_BQTND.dtype, interpret=interpret),
        }


def query_gradient(
    incoming: Incoming,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    past: PastBlocks | None,
    *,
    interpret: bool,
    tiles: Tiles | None = None,
) -> Tensor:
    """d_q (B, Q, T, N, D) in the dtype of the queries. The past is no ring: `autograd.attend` straightens it out."""
    from . import triton_backward

    k, v = alike(k_BKTND, v_BKTND)
    tiles = tiles or _tiles("query_gradient", incoming.q_BQTND, interpret=interpret)
    d_q = torch.empty_like(incoming.q_BQTND, memory_format=torch.contiguous_format)
    about_past = past_arguments(past, k, v)
    arguments = {
        **incoming.arguments(tiles, interpret=interpret),
        **{name: value for name, value in about_past.items() if name not in _FORWARD_ONLY},
        "k_ptr": k,
        "v_ptr": v,
        "row_ptr": incoming.selection.row_ptr,
        "col_idx": incoming.selection.col_idx,
        "d_q_ptr": d_q,
        **strides("new", k),
    }
    batch, query_blocks, tokens, heads, _ = d_q.shape
    programs = (batch * heads * query_blocks * -(-tokens // min(tiles.m, tile_width(tokens))),)
    launch(
        triton_backward.query_gradient,
        programs,
        arguments,
        interpret=interpret,
        warps=tiles.warps,
        stages=tiles.stages,
    )
    return d_q


def key_gradient(
    incoming: Incoming,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    *,
    first_block: int,
    interpret: bool,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """d_k and d_v (B, K, T, N, D) of one memory of keys and values, whose blocks count from `first_block`."""
    from . import triton_backward

    k, v = alike(k_BKTND, v_BKTND)
    tiles = tiles or _tiles("key_gradient", incoming.q_BQTND, interpret=interpret)
    d_k, d_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))
    col_ptr, row_idx = incoming.columns
    batch, blocks, tokens, heads, _ = k.shape
    arguments = {
        **incoming.arguments(tiles, interpret=interpret),
        "k_ptr": k,
        "v_ptr": v,
        "col_ptr": col_ptr,
        "row_idx": row_idx,
        "d_k_ptr": d_k,
        "d_v_ptr": d_v,
        **strides("k", k),
        "blocks": blocks,
        "first_block": first_block,
        "key_blocks": incoming.selection.key_blocks,
    }
    programs = (batch * heads * blocks * -(-tokens // min(tiles.j, tile_width(tokens))),)
    if blocks:
        launch(
            triton_backward.key_gradient,
            programs,
            arguments,
            interpret=interpret,
            warps=tiles.warps,
            stages=tiles.stages,
        )
    return d_k, d_v


def _tiles(kernel: str, q: Tensor, *, interpret: bool) -> Tiles:
    return INTERPRETED if interpret else tiles_for(kernel, q.device, q.dtype, tile_width(q.shape[-1]))
