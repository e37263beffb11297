"""Streams over caches equal a plain, whole recomputation without any: windows, sinks, grids, batches, factors.

What the golden tensors pin at a few settings is held here at others.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from plain_dit import masked_attention, plain_flow
from torch import Tensor

from ultraflash.kernels.block_sparse import BlockGrid, SelectionRule
from ultraflash.models.dit import CausalDiT, DiTConfig
from ultraflash.models.ring_cache import BlockCache, RingCache
from ultraflash.models.streaming_attention import SparseAttention, WindowAttention

CPU = torch.device("cpu")
TOLERANCE = 1e-4


def network(*, heads: int, in_channels: int = 4, layers: int = 2) -> CausalDiT:
    torch.manual_seed(heads)
    net = CausalDiT(
        DiTConfig(
            in_channels=in_channels, out_channels=4, dim=12 * heads, ffn_dim=40, layers=layers, heads=heads,
            text_tokens=7, text_dim=9, freq_dim=16,
        )
    )  # fmt: skip
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return net.eval()


def window_mask(blocks: int, size: int, window: int, sink: int, tokens: int) -> Tensor:
    """What each token of ``blocks`` blocks of ``size`` frames sees: its own block, and of the past the first ``sink``
    frames and the newest ones that a window of ``window`` frames has room for."""
    frames = blocks * size
    seen = torch.zeros(frames, frames, dtype=torch.bool)
    for frame, key in product(range(frames), range(frames)):
        end = (frame // size + 1) * size
        newest = end - (window - sink) if end > window else 0
        seen[frame, key] = key < end and (key < sink or key >= newest)
    return seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "window", "sink", "grid", "heads", "batch"),
    [
        (3, 9, 0, (2, 3), 2, 1),
        (3, 7, 1, (1, 2), 1, 2),
        (2, 6, 2, (3, 1), 3, 1),
        (1, 4, 3, (2, 2), 2, 1),
        (2, 8, 0, (2, 2), 1, 2),
    ],
)
def test_a_generator_over_its_ring_equals_whole_clips_under_a_mask(
    size: int, window: int, sink: int, grid: tuple[int, int], heads: int, batch: int
) -> None:
    blocks, (rows, cols) = 5, grid
    net = network(heads=heads)
    latent = torch.randn(batch, 4, blocks * size, 2 * rows, 2 * cols)
    text = torch.randn(batch, 5, 9)
    cache = RingCache(
        layers=2, batch=batch, frames=window, sink_frames=sink, frame_tokens=rows * cols, heads=heads, head_dim=12,
        dtype=torch.float32, device=CPU,
    )  # fmt: skip
    context, mask = net.encode_text(text), window_mask(blocks, size, window, sink, rows * cols)
    for block in range(blocks):
        start, end = block * size, (block + 1) * size
        for step in (900.0, 0.0):
            made = net(
                latent[:, :, start:end],
                torch.full((batch, size), step),
                context,
                torch.arange(start, end),
                WindowAttention(cache),
            )
            timesteps = torch.zeros(end)
            timesteps[start:] = step
            seen = mask[: end * rows * cols, : end * rows * cols]
            for sample in range(batch):
                whole = plain_flow(
                    net.state_dict(), net.config, latent[sample, :, :end], timesteps, text[sample], 0,
                    lambda _, q, k, v, seen=seen: masked_attention(q, k, v, seen),
                )  # fmt: skip
                assert (made[sample].double() - whole[:, start:]).abs().max() < TOLERANCE
        cache.commit()


class PlainSparse:
    """Block-sparse attention of one group, by the text: padded tokens, masks of blocks, everything in full."""

    def __init__(self, grid: BlockGrid, rule: SelectionRule, kept_blocks: int) -> None:
        self._grid, self._rule, self._kept = grid, rule, kept_blocks
        self._past: dict[int, tuple[Tensor, Tensor]] = {}
        t, h, w = grid.block
        self._counts = tuple(
            -(-n // b) for n, b in zip((grid.frames, grid.rows, grid.cols), (t, h, w), strict=True)
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = self._places()
        q_blocks, new_k, new_v = (self._blocks(x, tokens) for x in (q, k, v))
        past = self._past.get(layer)
        cached = 0 if past is None else len(past[0]) // (self._counts[1] * self._counts[2])
        keys = new_k if past is None else torch.cat((past[0], new_k))
        values = new_v if past is None else torch.cat((past[1], new_v))
        selected = self._selected(q_blocks, keys, cached)
        size = q_blocks.shape[1]
        seen = selected.repeat_interleave(size, 1).repeat_interleave(size, 2)
        out = masked_attention(q_blocks.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), seen)
        spatial = self._counts[1] * self._counts[2]
        last = max(0, len(keys) - self._kept * spatial)
        self._past[layer] = (keys[last:], values[last:])
        made = torch.empty_like(q)
        for token, place in enumerate(place for block in tokens for place in block):
            if place is not None:
                made[place] = out[token]
        return made

    def _places(self) -> list[list[int | None]]:
        """Blocks of token numbers; None stands for padding."""
        grid, (t, h, w) = self._grid, self._grid.block
        blocks = []
        for bt, bh, bw in product(*map(range, self._counts)):
            block: list[int | None] = []
            for i, j, k in product(range(t), range(h), range(w)):
                f, r, c = bt * t + i, bh * h + j, bw * w + k
                inside = f < grid.frames and r < grid.rows and c < grid.cols
                block.append((f * grid.rows + r) * grid.cols + c if inside else None)
            blocks.append(block)
        return blocks

    def _blocks(self, x_LND: Tensor, tokens: list[list[int | None]]) -> Tensor:
        nothing = torch.zeros_like(x_LND[0])
        return torch.stack(
            [torch.stack([nothing if p is None else x_LND[p] for p in block]) for block in tokens]
        )

    def _selected(self, q_blocks: Tensor, k_blocks: Tensor, cached: int) -> Tensor:
        """(N, query blocks, key blocks)."""
        rule, (_, high, wide) = self._rule, self._counts
        spatial, chunk = high * wide, max(1, rule.chunk_frames // self._grid.block[0])
        queries, keys, heads = len(q_blocks), len(k_blocks), q_blocks.shape[2]
        reach = rule.local_range

        allowed = torch.zeros(queries, keys, dtype=torch.bool)
        for a, b in product(range(queries), range(keys)):
            (qt, qr, qc), (kt, kr, kc) = ((n // spatial, n % spatial // wide, n % wide) for n in (a, b))
            near = all(0 <= key - (query - reach // 2) < reach for query, key in ((qr, kr), (qc, kc)))
            causal = (qt + cached) // chunk >= kt // chunk
            allowed[a, b] = near and causal
        scale = 1.0
        if rule.ref_spatial_tokens:
            scale = rule.ref_spatial_tokens / (self._grid.rows * self._grid.cols)
        pairs = int(spatial**2 * rule.ratio * scale)
        pairs = min(pairs, spatial**2 * (queries // spatial) - 1)
        chosen = torch.zeros(heads, queries, keys, dtype=torch.bool)
        q_mean, k_mean = q_blocks.mean(1), k_blocks.mean(1)
        for head in range(heads):
            scores = q_mean[:, head] @ k_mean[:, head].T / q_blocks.shape[3] ** 0.5
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(1)
            for first in range(0, queries, spatial):
                together = weights[first : first + spatial]
                threshold = together.flatten().sort(descending=True).values[pairs]
                chosen[head, first : first + spatial] = (together >= threshold) & allowed[
                    first : first + spatial
                ]
            for query in range(queries):
                if not chosen[head, query].any():
                    chosen[head, query, allowed[query].nonzero()[0, 0]] = True
                if queries == keys:
                    chosen[head, query, query] = True
        return chosen


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "rows", "cols", "block", "local_range", "ratio", "kept", "reference"),
    [
        (2, 4, 6, (2, 2, 2), 3, 0.5, 1, None),
        (4, 5, 3, (2, 2, 2), 2, 0.7, 2, None),
        (2, 6, 4, (1, 3, 2), 5, 0.3, 3, 12),
        (2, 3, 3, (2, 2, 2), 9, 1.0, 1, None),
    ],
)
def test_super_resolution_over_its_cache_equals_masks_in_full(
    frames: int, rows: int, cols: int, block: tuple[int, int, int], local_range: int, ratio: float, kept: int,
    reference: int | None,
) -> None:  # fmt: skip
    heads, groups = 2, 4
    net = network(heads=heads, in_channels=8)
    grid = BlockGrid(frames=frames, rows=rows, cols=cols, block=block)
    rule = SelectionRule(chunk_frames=2, local_range=local_range, ratio=ratio, ref_spatial_tokens=reference)
    cache = BlockCache(
        layers=2, batch=1, frame_blocks=kept, spatial_blocks=grid.spatial_blocks, block_tokens=grid.block_tokens,
        heads=heads, head_dim=12, dtype=torch.float32, device=CPU,
    )  # fmt: skip
    text, plain = torch.randn(5, 9), PlainSparse(grid, rule, kept)
    context = net.encode_text(text[None])
    for group in range(groups):
        latent, start = torch.randn(8, frames, 2 * rows, 2 * cols), group * frames
        made = net(
            latent[None],
            torch.full((1, 1), 1000.0),
            context,
            torch.arange(start, start + frames),
            SparseAttention(cache, grid, rule),
        )
        cache.commit()
        whole = plain_flow(net.state_dict(), net.config, latent, torch.full((1,), 1000.0), text, start, plain)
        assert (made[0].double() - whole).abs().max() < TOLERANCE
