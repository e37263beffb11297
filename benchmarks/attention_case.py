"""Sizes of super-resolution at which attention is timed, tensors for them, and the check before the clock starts.

Shape legend: B batch, N heads, Q query blocks, K key blocks (cached ones first), T tokens of a block, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.block_sparse import BlockGrid, BlockSelection, RingSpan, SelectionRule, select_blocks
from ultraflash.models.preset import load_preset


class WrongNumbers(Exception):
    """What was to be timed does not compute what it should, so its speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of block-sparse attention.

    Attributes:
        name: for the table.
        cached_frame_blocks: frame blocks in the cache.
        heads, size: N and D.
    """

    name: str
    grid: BlockGrid
    rule: SelectionRule
    cached_frame_blocks: int
    heads: int
    size: int

    @property
    def key_blocks(self) -> int:
        return (self.cached_frame_blocks + self.grid.frame_blocks) * self.grid.spatial_blocks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensors:
    """Queries, keys, values and cache in block layout, and the blocks chosen."""

    q_BQTND: Tensor
    k_BQTND: Tensor
    v_BQTND: Tensor
    past_k_BCTND: Tensor
    past_v_BCTND: Tensor
    selection: BlockSelection

    def all_keys(self) -> tuple[Tensor, Tensor]:
        """Keys and values of cache and call in one piece, (B, K, T, N, D)."""
        return (
            torch.cat([self.past_k_BCTND, self.k_BQTND], dim=1),
            torch.cat([self.past_v_BCTND, self.v_BQTND], dim=1),
        )

    def ring(self) -> tuple[Tensor, Tensor, RingSpan]:
        """Keys and values of the cache as a stream has them: a ring, here with the oldest block at place 1, so that the
        newest lies round its end."""
        keys, values = (x.roll(1, dims=1) for x in (self.past_k_BCTND, self.past_v_BCTND))
        return keys, values, RingSpan(first=1, count=keys.shape[1])

    @property
    def pairs(self) -> int:
        """Selected pairs of blocks, all heads together. Waits for a GPU."""
        return int(self.selection.row_ptr[-1])


def mini_cases() -> list[Case]:
    """Super-resolution of the preset mini, size by size."""
    preset = load_preset("mini")
    cases = []
    for size in preset.sizes:
        rows, cols = preset.sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)
        cases.append(
            Case(
                name=f"mini {size.name}",
                grid=BlockGrid(frames=preset.group_frames, rows=rows, cols=cols, block=preset.sr.block),
                rule=preset.sr.rule,
                cached_frame_blocks=preset.sr.cached_blocks,
                heads=preset.sr.dit.heads,
                size=preset.sr.dit.head_dim,
            )
        )
    return cases


def full_case(*, frames: int, heads: int) -> Case:
    """1K of the full-size network: 60x104 tokens a frame, blocks of 2x8x8, three cached frame blocks.

    How sparse it is comes from a checkpoint's configuration; the rule here is an example.
    """
    return Case(
        name=f"full 1K, {frames} frames, {heads} heads",
        grid=BlockGrid(frames=frames, rows=60, cols=104, block=(2, 8, 8)),
        rule=SelectionRule(chunk_frames=2, local_range=7, ratio=0.4),
        cached_frame_blocks=3,
        heads=heads,
        size=128,
    )


def draw(case: Case, dtype: torch.dtype, device: torch.device) -> Tensors:
    """Seeded tensors. Blocks get an offset each, or the choice among them would be by chance."""
    generator = torch.Generator().manual_seed(0)

    def blocks(count: int) -> Tensor:
        shape = (1, count, case.grid.block_tokens, case.heads, case.size)
        offset = torch.randn(1, count, 1, case.heads, case.size, generator=generator)
        return (torch.randn(shape, generator=generator) + offset).to(device, dtype)

    new, cached = case.grid.n_blocks, case.cached_frame_blocks * case.grid.spatial_blocks
    q, k, v, past_k, past_v = (blocks(count) for count in (new, new, new, cached, cached))
    return Tensors(
        q_BQTND=q,
        k_BQTND=k,
        v_BQTND=v,
        past_k_BCTND=past_k,
        past_v_BCTND=past_v,
        selection=select_blocks(q, k, case.grid, case.rule, cached_k_BCTND=past_k, backend="reference"),
    )


def check(name: str, out_BQTND: Tensor, tensors: Tensors, tolerance: float) -> None:
    """Compare the first, a middle and the last query block of every head with float32 attention, written out.

    Raises:
        WrongNumbers: naming the block and by how much it is off.
    """
    keys, values = tensors.all_keys()
    mask_NQK = tensors.selection.to_mask()[0]
    heads, query_blocks, _ = mask_NQK.shape
    for head in range(heads):
        for block in sorted({0, query_blocks // 2, query_blocks - 1}):
            chosen = mask_NQK[head, block]
            q, k, v = (x.float() for x in (
                tensors.q_BQTND[0, block, :, head],
                keys[0, chosen, :, head].flatten(0, 1),
                values[0, chosen, :, head].flatten(0, 1),
            ))  # fmt: skip
            wanted = (q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
            off = (out_BQTND[0, block, :, head].float() - wanted).abs().max().item()
            if not off <= tolerance:
                raise WrongNumbers(f"{name} is off by {off:.2g} in block {block} of head {head}")
