"""Self-attention of a stream: what the blocks in work see of the past, over caches that are passed in.

Shapes: B batch, L tokens, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.attention import dense_attention
from ultraflash.kernels.block_sparse import (
    SELECTION_BACKEND,
    BlockGrid,
    SelectionRule,
    block_sparse_attention,
    select_blocks,
)
from ultraflash.models.preset import BaseConfig, Size
from ultraflash.models.refinement import SuperResolutionConfig
from ultraflash.models.ring_cache import BlockCache, RingCache


def window_cache(config: BaseConfig, *, batch: int, dtype: torch.dtype, device: torch.device) -> RingCache:
    """The empty cache of a base generator's streams, for a batch of them."""
    h, w = config.dit.token_grid(config.rows, config.cols)
    return RingCache(
        layers=config.dit.layers,
        batch=batch,
        frames=config.window_frames,
        sink_frames=config.sink_frames,
        frame_tokens=h * w,
        heads=config.dit.heads,
        head_dim=config.dit.head_dim,
        dtype=dtype,
        device=device,
        storage=config.kv,
    )


def sr_grid(sr: SuperResolutionConfig, size: Size, *, frames: int) -> BlockGrid:
    """The blocks that super-resolution regroups ``frames`` latent frames of a size into."""
    rows, cols = sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)
    return BlockGrid(frames=frames, rows=rows, cols=cols, block=sr.block)


def block_cache(
    sr: SuperResolutionConfig, grid: BlockGrid, *, dtype: torch.dtype, device: torch.device
) -> BlockCache:
    """The empty super-resolution cache of one stream at the size of ``grid``."""
    return BlockCache(
        layers=sr.dit.layers,
        batch=1,
        frame_blocks=sr.cached_blocks,
        spatial_blocks=grid.spatial_blocks,
        block_tokens=grid.block_tokens,
        heads=sr.dit.heads,
        head_dim=sr.dit.head_dim,
        dtype=dtype,
        device=device,
        storage=sr.kv,
    )


def no_cache(dtype: torch.dtype, device: torch.device) -> BlockCache:
    """The cache of a stream that goes without super-resolution: it holds nothing."""
    return BlockCache(
        layers=0,
        batch=1,
        frame_blocks=0,
        spatial_blocks=1,
        block_tokens=1,
        heads=1,
        head_dim=1,
        dtype=dtype,
        device=device,
    )


@dataclass(frozen=True, slots=True)
class WindowAttention:
    """Dense attention of a block over itself and the frames in a ring cache; writes the block into the cache.

    ``backend`` is one of `dense_attention`.
    """

    cache: RingCache
    backend: str = "auto"

    def __call__(self, layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        self.cache.append(layer, k_BLND, v_BLND)
        keys, values, scales = self.cache.kept(layer)
        k_scale, v_scale = scales or (None, None)
        return dense_attention(
            q_BLND, keys, values, k_scale_BMN=k_scale, v_scale_BMN=v_scale, backend=self.backend
        )


@dataclass(frozen=True, slots=True)
class SparseAttention:
    """Block-sparse attention of a group over itself and cached temporal blocks; writes the group into the cache.

    ``backend`` is one of `block_sparse_attention`, for the choice of blocks as well.
    """

    cache: BlockCache
    grid: BlockGrid
    rule: SelectionRule
    backend: str = "auto"

    def __call__(self, layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        q, k, v = (self.grid.to_blocks(x) for x in (q_BLND, k_BLND, v_BLND))
        return self.attend_blocks(layer, q, k, v)

    def attend_blocks(self, layer: int, q_BGTND: Tensor, k_BGTND: Tensor, v_BGTND: Tensor) -> Tensor:
        """The same for queries, keys and values in block layout already; the result is in reading order."""
        past = self.cache.view(layer)
        chooser = SELECTION_BACKEND.get(self.backend, self.backend)
        selection = select_blocks(
            q_BGTND, k_BGTND, self.grid, self.rule,
            cached_k_BCTND=past.k_BRTND, cached_k_scale_BCTN=past.k_scale_BRTN, cached_span=past.span,
            backend=chooser,
        )  # fmt: skip
        out = block_sparse_attention(
            q_BGTND, k_BGTND, v_BGTND, selection,
            cached_k_BCTND=past.k_BRTND, cached_v_BCTND=past.v_BRTND,
            cached_k_scale_BCTN=past.k_scale_BRTN, cached_v_scale_BCTN=past.v_scale_BRTN,
            cached_span=past.span, backend=self.backend,
        )  # fmt: skip
        self.cache.append(layer, k_BGTND, v_BGTND)
        return self.grid.to_tokens(out)
