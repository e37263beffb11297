"""Which key blocks each query block attends to.

Shape legend: B batch, N heads, Q query blocks, K key blocks (cached ones first), G blocks, T tokens of a
block, D head size, S blocks of one frame block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .layout import BlockGrid, block_means
from .past import RingSpan, span_of

# What a ratio of zero or less means in the networks that were trained this way.
_PAIRS_WITHOUT_RATIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRule:
    """How sparse attention is, independent of the size of the picture.

    Attributes:
        chunk_frames: latent frames that see each other in both directions; later chunks are invisible.
        local_range: side of the square of blocks, around its own position, that a query block may look at.
        ratio: pairs kept per head and query frame block, as a multiple of (blocks of a frame block) squared.
        top_k: pairs kept, overriding `ratio`; None or 0 leaves it to the ratio.
        ref_spatial_tokens: tokens per frame for which `ratio` was chosen; it is scaled by this over the
            tokens of the actual frame, so that cost grows in proportion to the picture. None does not scale.
        causal: False lets every query chunk see every key chunk.
    """

    chunk_frames: int
    local_range: int
    ratio: float
    top_k: int | None = None
    ref_spatial_tokens: int | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        if self.local_range < 1:
            raise ValueError(f"local_range must be at least 1, got {self.local_range}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if self.ref_spatial_tokens is not None and self.ref_spatial_tokens < 1:
            raise ValueError(f"ref_spatial_tokens must be at least 1, got {self.ref_spatial_tokens}")

    def thinned(self, share: float) -> SelectionRule:
        """The rule that keeps this share, above 0 and at most 1, of the pairs."""
        if not 0 < share <= 1:
            raise ValueError(f"share lies in (0, 1], got {share}")
        if share == 1:
            return self
        top_k = max(1, round(self.top_k * share)) if self.top_k else self.top_k
        return replace(self, ratio=self.ratio * share, top_k=top_k)

    def pairs(self, grid: BlockGrid) -> int:
        """Pairs that the threshold lets through per head and query frame block, ties aside."""
        if self.top_k:
            return self.top_k
        ratio = self.ratio
        if self.ref_spatial_tokens is not None:
            ratio = ratio * self.ref_spatial_tokens / grid.frame_tokens
        if ratio <= 0:
            return _PAIRS_WITHOUT_RATIO
        square = grid.spatial_blocks**2
        most = max(square * grid.frame_blocks - 1, 1)
        return min(max(int(square * ratio), 1), most)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockSelection:
    """Selected key blocks of every query block, as compressed sparse rows.

    Row r = (batch * heads + head) * query_blocks + query block sees key blocks
    ``col_idx[row_ptr[r] : row_ptr[r + 1]]``, ascending. Key blocks count the cached ones first.

    Attributes:
        row_ptr: int32 (batch * heads * query_blocks + 1,).
        col_idx: int32, at least as many as there are selected pairs; what comes after them is not read. Lists
            made on a GPU have room for every allowed pair, since counting first would wait for the GPU.
    """

    row_ptr: Tensor
    col_idx: Tensor
    batch: int
    heads: int
    query_blocks: int
    key_blocks: int

    @classmethod
    def from_mask(cls, mask_BNQK: Tensor) -> BlockSelection:
        """Lists of a boolean mask (B, N, Q, K)."""
        batch, heads, query_blocks, key_blocks = mask_BNQK.shape
        rows = mask_BNQK.reshape(-1, key_blocks)
        row_ptr = torch.zeros(rows.shape[0] + 1, dtype=torch.int32, device=rows.device)
        torch.cumsum(rows.sum(dim=1), dim=0, dtype=torch.int32, out=row_ptr[1:])
        return cls(
            row_ptr=row_ptr,
            col_idx=rows.nonzero()[:, 1].to(torch.int32),
            batch=batch,
            heads=heads,
            query_blocks=query_blocks,
            key_blocks=key_blocks,
        )

    def to_mask(self) -> Tensor:
        """The boolean mask (B, N, Q, K) that the lists stand for."""
        n_rows = self.batch * self.heads * self.query_blocks
        mask = torch.zeros(n_rows, self.key_blocks, dtype=torch.bool, device=self.col_idx.device)
        counts = self.row_ptr.diff().long()
        rows = torch.repeat_interleave(torch.arange(n_rows, device=mask.device), counts)
        mask[rows, self.col_idx[: len(rows)].long()] = True
        return mask.view(self.batch, self.heads, self.query_blocks, self.key_blocks)

    def transposed(self) -> tuple[Tensor, Tensor]:
        """Lists by key block: column c = (batch * heads + head) * key_blocks + key block is seen by the query
        blocks ``row_idx[col_ptr[c] : col_ptr[c + 1]]``, ascending. Returns int32 (col_ptr, row_idx); does not wait
        for a GPU.
        """
        n_rows = self.batch * self.heads * self.query_blocks
        n_columns = self.batch * self.heads * self.key_blocks
        at = torch.arange(len(self.col_idx), device=self.col_idx.device, dtype=torch.int32)
        row = torch.searchsorted(self.row_ptr[1:], at, right=True, out_int32=True)
        column = torch.where(
            row < n_rows, row // self.query_blocks * self.key_blocks + self.col_idx, n_columns
        )
        column, order = column.sort(stable=True)
        bounds = torch.arange(n_columns + 1, device=column.device, dtype=column.dtype)
        col_ptr = torch.searchsorted(column, bounds, out_int32=True)
        return col_ptr, (row % self.query_blocks)[order].to(torch.int32)


def allowed_pairs(
    grid: BlockGrid, rule: SelectionRule, cached_frame_blocks: int, device: torch.device
) -> Tensor:
    """Pairs that are causal and spatially local: bool (Q, K), K counting the cached blocks first.

    A query block always may look at itself, so no row is empty.
    """
    query_time = torch.arange(grid.frame_blocks, device=device) + cached_frame_blocks
    key_time = torch.arange(cached_frame_blocks + grid.frame_blocks, device=device)
    if rule.causal:
        chunk_blocks = max(1, rule.chunk_frames // grid.block[0])
        in_time = key_time[None] // chunk_blocks <= query_time[:, None] // chunk_blocks
    else:
        in_time = torch.ones(len(query_time), len(key_time), dtype=torch.bool, device=device)
    near_rows = _in_window(grid.row_blocks, rule.local_range, device)
    near_cols = _in_window(grid.col_blocks, rule.local_range, device)
    pairs = (
        in_time[:, None, None, :, None, None]
        & near_rows[None, :, None, None, :, None]
        & near_cols[None, None, :, None, None, :]
    )
    return pairs.reshape(grid.n_blocks, len(key_time) * grid.spatial_blocks)


def _in_window(blocks: int, window: int, device: torch.device) -> Tensor:
    """(blocks, blocks): whether key position j lies in [i - window // 2, i - window // 2 + window - 1]."""
    at = torch.arange(blocks, device=device)
    offset = at[None] - (at[:, None] - window // 2)
    return (offset >= 0) & (offset < window)


@torch.no_grad()
def selection_mask(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    grid: BlockGrid,
    rule: SelectionRule,
    *,
    cached_k_BCTND: Tensor | None = None,
    cached_span: RingSpan | None = None,
) -> Tensor:
    """Choose key blocks by content among the allowed ones.

    Block means of queries and keys give scores q.k / sqrt(D), softmax over all key blocks; then, for each
    head and query frame block, the largest pairs *of all its query blocks together* survive: a query block
    that is sure of what it needs leaves room for one that is not.

    Args:
        q_BQTND: queries in block layout, (B, grid.n_blocks, block_tokens, N, D), after position encoding.
        k_BKTND: keys of the same tokens, same shape.
        cached_k_BCTND: keys of earlier frame blocks in the same layout, oldest first, or None.
        cached_span: which of these blocks count, where they are a ring; None for all of them.

    Returns:
        bool (B, N, Q, K) with K = cached blocks + grid.n_blocks. No row is empty.

    Raises:
        ValueError: blocks do not match the grid.
    """
    span = span_of(cached_k_BCTND, cached_span)
    cached_blocks = span.count
    check_blocks(q_BQTND, k_BKTND, cached_blocks, grid)
    key_means = block_means(k_BKTND)
    if cached_k_BCTND is not None:
        past = [block_means(cached_k_BCTND[:, run]) for run in span.runs(cached_k_BCTND.shape[1])]
        key_means = torch.cat([*past, key_means], dim=1)
    q_BNQD = block_means(q_BQTND).transpose(1, 2)
    k_BNDK = key_means.permute(0, 2, 3, 1)
    allowed_QK = allowed_pairs(grid, rule, cached_blocks // grid.spatial_blocks, q_BQTND.device)

    scores_BNQK = (q_BNQD @ k_BNDK) / q_BNQD.shape[-1] ** 0.5
    weights_BNQK = scores_BNQK.masked_fill(~allowed_QK, float("-inf")).softmax(dim=-1)
    joint = weights_BNQK.unflatten(2, (grid.frame_blocks, grid.spatial_blocks)).flatten(3)
    kept = min(rule.pairs(grid), joint.shape[-1] - 1) + 1
    threshold = joint.topk(kept, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    mask_BNQK: Tensor = (joint >= threshold).reshape(weights_BNQK.shape) & allowed_QK

    first_allowed_Q1 = allowed_QK.to(torch.uint8).argmax(dim=-1, keepdim=True)
    fallback_QK = torch.zeros_like(allowed_QK).scatter_(1, first_allowed_Q1, True)
    mask_BNQK |= ~mask_BNQK.any(dim=-1, keepdim=True) & fallback_QK
    if mask_BNQK.shape[-2] == mask_BNQK.shape[-1]:
        mask_BNQK.diagonal(dim1=-2, dim2=-1).fill_(True)
    return mask_BNQK


def check_blocks(q_BQTND: Tensor, k_BKTND: Tensor, cached_blocks: int, grid: BlockGrid) -> None:
    """Refuse queries and keys that are not laid out as the grid, and a cache of broken frame blocks.

    Raises:
        ValueError: saying what was expected.
    """
    expected = (grid.n_blocks, grid.block_tokens)
    for name, x in (("queries", q_BQTND), ("keys", k_BKTND)):
        if tuple(x.shape[1:3]) != expected:
            raise ValueError(f"{name}: expected (blocks, tokens) {expected}, got {tuple(x.shape[1:3])}")
    if cached_blocks % grid.spatial_blocks:
        raise ValueError(
            f"the cache must hold whole frame blocks, {grid.spatial_blocks} blocks each, got {cached_blocks}"
        )
