"""The order in which block-sparse attention sees a grid of tokens.

Shape legend: B batch, L tokens in reading order (frame, row, column), G blocks, T tokens of one block,
N heads, D head size; F H W frames, rows and columns of tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGrid:
    """A grid of tokens and the blocks it is cut into.

    Blocks are ordered frame block, row block, column block; inside a block tokens are ordered frame, row,
    column. An axis that the block size does not divide is filled up with zero tokens at its end, and those
    take part in attention like any other: a network is trained with them.

    Attributes:
        frames: latent frames of one call.
        rows: rows of tokens in a frame.
        cols: columns of tokens in a frame.
        block: frames, rows and columns of one block.
    """

    frames: int
    rows: int
    cols: int
    block: tuple[int, int, int]

    def __post_init__(self) -> None:
        if min(self.frames, self.rows, self.cols) < 1:
            raise ValueError(f"a token grid needs at least one token per axis, got {self.shape}")
        if len(self.block) != 3 or min(self.block) < 1:
            raise ValueError(f"block size must be three positive numbers, got {self.block}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens."""
        return self.frames, self.rows, self.cols

    @property
    def tokens(self) -> int:
        """Tokens of the grid without padding."""
        return self.frames * self.rows * self.cols

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame without padding."""
        return self.rows * self.cols

    @property
    def block_tokens(self) -> int:
        """Tokens of one block, padding included."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def frame_blocks(self) -> int:
        return -(-self.frames // self.block[0])

    @property
    def row_blocks(self) -> int:
        return -(-self.rows // self.block[1])

    @property
    def col_blocks(self) -> int:
        return -(-self.cols // self.block[2])

    @property
    def spatial_blocks(self) -> int:
        """Blocks of one frame block."""
        return self.row_blocks * self.col_blocks

    @property
    def n_blocks(self) -> int:
        return self.frame_blocks * self.spatial_blocks

    def to_blocks(self, x_BLND: Tensor) -> Tensor:
        """Regroup tokens into blocks.

        Args:
            x_BLND: (B, tokens, N, D) in reading order; queries and keys with their position encoding applied,
                since padding must stay zero.

        Returns:
            (B, n_blocks, block_tokens, N, D), contiguous.

        Raises:
            ValueError: the number of tokens is not that of the grid.
        """
        batch, tokens, heads, size = x_BLND.shape
        if tokens != self.tokens:
            raise ValueError(f"expected {self.tokens} tokens for a grid of {self.shape}, got {tokens}")
        x_BFHWC = x_BLND.reshape(batch, *self.shape, heads * size)
        f, h, w = self.block
        fill = (
            self.frame_blocks * f - self.frames,
            self.row_blocks * h - self.rows,
            self.col_blocks * w - self.cols,
        )
        if any(fill):
            x_BFHWC = F.pad(x_BFHWC, (0, 0, 0, fill[2], 0, fill[1], 0, fill[0]))
        split = x_BFHWC.reshape(
            batch, self.frame_blocks, f, self.row_blocks, h, self.col_blocks, w, heads * size
        )
        ordered = split.permute(0, 1, 3, 5, 2, 4, 6, 7)
        return ordered.reshape(batch, self.n_blocks, self.block_tokens, heads, size)

    def to_tokens(self, x_BGTND: Tensor) -> Tensor:
        """Undo `to_blocks`: (B, n_blocks, block_tokens, N, D) -> (B, tokens, N, D), padding dropped.

        Raises:
            ValueError: the blocks are not those of the grid.
        """
        batch, blocks, block_tokens, heads, size = x_BGTND.shape
        if (blocks, block_tokens) != (self.n_blocks, self.block_tokens):
            raise ValueError(
                f"expected {self.n_blocks} blocks of {self.block_tokens} tokens, "
                f"got {blocks} of {block_tokens}"
            )
        f, h, w = self.block
        if self.n_blocks * block_tokens != self.tokens and not x_BGTND.requires_grad:
            # One pass, where views need a second one to drop the padding. Its gradient would add instead of copy.
            rows = x_BGTND.reshape(batch, blocks * block_tokens, heads * size)
            return rows.index_select(1, _places(self, rows.device)).view(batch, self.tokens, heads, size)
        split = x_BGTND.reshape(
            batch, self.frame_blocks, self.row_blocks, self.col_blocks, f, h, w, heads * size
        )
        padded = split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(
            batch, self.frame_blocks * f, self.row_blocks * h, self.col_blocks * w, heads * size
        )
        kept = padded[:, : self.frames, : self.rows, : self.cols]
        return kept.reshape(batch, self.tokens, heads, size)


@functools.lru_cache(maxsize=64)
def _places(grid: BlockGrid, device: torch.device) -> Tensor:
    """Where in block layout each token in reading order lies: int64 (L,)."""
    f, h, w = grid.block
    frame, row, col = torch.meshgrid(*(torch.arange(n, device=device) for n in grid.shape), indexing="ij")
    block = (frame // f * grid.row_blocks + row // h) * grid.col_blocks + col // w
    inner = (frame % f * h + row % h) * w + col % w
    return (block * grid.block_tokens + inner).flatten()


def block_means(x_BGTND: Tensor) -> Tensor:
    """Mean over the tokens of each block, padding included, in float32: (B, G, T, N, D) -> (B, G, N, D)."""
    return x_BGTND.mean(dim=2, dtype=torch.float32)
