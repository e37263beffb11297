"""Chooses key blocks with Triton kernels: the rule of `selection.selection_mask`, without waiting for the GPU.

Shape legend: B batch, N heads, Q query blocks, K key blocks (cached ones first), S blocks of one frame block, F query
frame blocks, T tokens of a block, D head size, W places that a query block may look at.

Scores are kept for the W places of each query block instead of all K. What is left out has weight zero, so the
threshold over W places is the one over K, and zero where there are fewer places than pairs to keep. Softmax and the
threshold are PyTorch's: neither waits for the GPU, and its radix select is hard to beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ultraflash.kernels.launch import launch, tile_width

from .layout import BlockGrid
from .past import RingSpan
from .selection import BlockSelection, SelectionRule

TILE_TOKENS = 64
TILE_PLACES = 128
TILE_PLACES_SCORED = 32  # each brings a vector of D numbers


def select(
    q_BQTND: Tensor,
    k_BQTND: Tensor,
    grid: BlockGrid,
    rule: SelectionRule,
    *,
    cached_k_BCTND: Tensor | None,
    cached_k_scale_BCTN: Tensor | None,
    span: RingSpan,
    interpret: bool,
) -> BlockSelection:
    """Lists over the cached blocks of `span`, then new blocks, with room for everything that is allowed."""
    batch, query_blocks, _, heads, size = q_BQTND.shape
    cached = span.count
    key_blocks = cached + query_blocks
    q_means = q_BQTND.new_empty(batch, heads, query_blocks, size, dtype=torch.float32)
    k_means = q_BQTND.new_empty(batch, heads, key_blocks, size, dtype=torch.float32)
    new = RingSpan(first=0, count=query_blocks)
    _pool(q_BQTND, None, new, q_means, first_block=0, interpret=interpret)
    if cached_k_BCTND is not None and cached:
        _pool(cached_k_BCTND, cached_k_scale_BCTN, span, k_means, first_block=0, interpret=interpret)
    _pool(k_BQTND, None, new, k_means, first_block=cached, interpret=interpret)

    window = _window(grid, rule, cached // grid.spatial_blocks)
    places = window["key_frames"] * window["window_rows"] * window["window_cols"]
    weights_BNQW = _scores(q_means, k_means, window, places, interpret=interpret).softmax(dim=-1)
    threshold_BNF = _thresholds(weights_BNQW, grid, rule.pairs(grid), key_blocks)
    row_ptr, col_idx = _lists(
        weights_BNQW, threshold_BNF, grid, window, diagonal=cached == 0, interpret=interpret
    )
    return BlockSelection(
        row_ptr=row_ptr,
        col_idx=col_idx,
        batch=batch,
        heads=heads,
        query_blocks=query_blocks,
        key_blocks=key_blocks,
    )


def _window(grid: BlockGrid, rule: SelectionRule, cached_frames: int) -> dict[str, Any]:
    """What `key_block_of` needs to know."""
    return {
        "row_blocks": grid.row_blocks,
        "col_blocks": grid.col_blocks,
        "window_rows": min(rule.local_range, grid.row_blocks),
        "window_cols": min(rule.local_range, grid.col_blocks),
        "cached_frames": cached_frames,
        "key_frames": cached_frames + grid.frame_blocks,
        "local_range": rule.local_range,
        "chunk_blocks": max(1, rule.chunk_frames // grid.block[0]),
        "CAUSAL": rule.causal,
    }


def _pool(
    x_BGTND: Tensor,
    scale_BGTN: Tensor | None,
    span: RingSpan,
    means_BNKD: Tensor,
    *,
    first_block: int,
    interpret: bool,
) -> None:
    """Means of the blocks of a span, written into `means_BNKD` from `first_block` on."""
    from .triton_selection import block_means

    x = x_BGTND if x_BGTND.stride(-1) == 1 else x_BGTND.contiguous()
    scale = scale_BGTN
    if scale is not None and not scale[0].is_contiguous():
        scale = scale.contiguous()
    batch, places, tokens, heads, size = x.shape
    strides = {f"x_{name}": x.stride(axis) for axis, name in enumerate(("batch", "block", "token", "head"))}
    arguments = {
        "x_ptr": x,
        "x_scale_ptr": means_BNKD if scale is None else scale,
        "mean_ptr": means_BNKD,
        **strides,
        "scale_batch": 0 if scale is None else scale.stride(0),
        "blocks": span.count,
        "heads": heads,
        "first_block": first_block,
        "all_blocks": means_BNKD.shape[2],
        "first_place": span.first,
        "places": places,
        "T": tokens,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "TILE_T": min(TILE_TOKENS, tile_width(tokens)),
        "QUANTIZED": scale is not None,
    }
    launch(block_means, (batch * heads * span.count,), arguments, interpret=interpret)


def _scores(
    q_means_BNQD: Tensor, k_means_BNKD: Tensor, window: Mapping[str, Any], places: int, *, interpret: bool
) -> Tensor:
    """(B, N, Q, W), -inf where a place is not allowed."""
    from .triton_selection import pair_scores

    batch, heads, query_blocks, size = q_means_BNQD.shape
    scores = q_means_BNQD.new_empty(batch, heads, query_blocks, places)
    arguments = {
        "q_mean_ptr": q_means_BNQD,
        "k_mean_ptr": k_means_BNKD,
        "score_ptr": scores,
        "query_blocks": query_blocks,
        "key_blocks": k_means_BNKD.shape[2],
        "places": places,
        **window,
        "root": size**0.5,
        "SIZE": size,
        "WIDTH": tile_width(size),
        "TILE_W": TILE_PLACES_SCORED,
    }
    launch(pair_scores, (batch * heads * query_blocks,), arguments, interpret=interpret)
    return scores


def _thresholds(weights_BNQW: Tensor, grid: BlockGrid, pairs: int, key_blocks: int) -> Tensor:
    """(B, N, F): the smallest weight that still is among the largest of its query frame block."""
    joint = weights_BNQW.unflatten(2, (grid.frame_blocks, grid.spatial_blocks)).flatten(3)
    kept = min(pairs, grid.spatial_blocks * key_blocks - 1) + 1
    if kept > joint.shape[-1]:
        return joint.new_zeros(joint.shape[:-1])
    return joint.topk(kept, dim=-1, sorted=False).values.amin(dim=-1)


def _lists(
    weights_BNQW: Tensor,
    threshold_BNF: Tensor,
    grid: BlockGrid,
    window: Mapping[str, Any],
    *,
    diagonal: bool,
    interpret: bool,
) -> tuple[Tensor, Tensor]:
    """row_ptr and col_idx: counted, summed up, and then written."""
    from .triton_selection import kept_places

    batch, heads, query_blocks, places = weights_BNQW.shape
    rows = batch * heads * query_blocks
    counts = torch.empty(rows, dtype=torch.int32, device=weights_BNQW.device)
    row_ptr = torch.zeros(rows + 1, dtype=torch.int32, device=weights_BNQW.device)
    col_idx = torch.empty(rows * places, dtype=torch.int32, device=weights_BNQW.device)
    arguments = {
        "weight_ptr": weights_BNQW,
        "threshold_ptr": threshold_BNF,
        "count_ptr": counts,
        "row_ptr": row_ptr,
        "col_idx": col_idx,
        "query_blocks": query_blocks,
        "spatial_blocks": grid.spatial_blocks,
        "places": places,
        **window,
        "TILE_W": TILE_PLACES,
        "DIAGONAL": diagonal,
    }
    launch(kept_places, (rows,), {**arguments, "WRITE": False}, interpret=interpret)
    torch.cumsum(counts, dim=0, dtype=torch.int32, out=row_ptr[1:])
    launch(kept_places, (rows,), {**arguments, "WRITE": True}, interpret=interpret)
    return row_ptr, col_idx
