import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.block_sparse import (
    BlockGrid,
    BlockSelection,
    SelectionRule,
    allowed_pairs,
    select_blocks,
    selection_mask,
)

RULE = SelectionRule(chunk_frames=1, local_range=3, ratio=0.5)


def keys_and_queries(
    grid: BlockGrid, cached: int, seed: int, batch: int = 1
) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def draw(blocks: int) -> Tensor:
        # An offset per block keeps the block means apart, which averages of pure noise are not.
        offset = torch.randn(batch, blocks, 1, 2, 4, generator=generator)
        return torch.randn(batch, blocks, grid.block_tokens, 2, 4, generator=generator) + offset

    k_cached = draw(cached * grid.spatial_blocks) if cached else None
    return draw(grid.n_blocks), draw(grid.n_blocks), k_cached


def where(index: int, grid: BlockGrid) -> tuple[int, int, int]:
    frame, rest = divmod(index, grid.spatial_blocks)
    return frame, *divmod(rest, grid.col_blocks)


def slow_allowed(grid: BlockGrid, rule: SelectionRule, cached: int, query: int, key: int) -> bool:
    query_frame, query_row, query_col = where(query, grid)
    key_frame, key_row, key_col = where(key, grid)
    chunk = max(1, rule.chunk_frames // grid.block[0])
    causal = key_frame // chunk <= (query_frame + cached) // chunk
    half, side = rule.local_range // 2, rule.local_range
    rows = range(query_row - half, query_row - half + side)
    cols = range(query_col - half, query_col - half + side)
    return (causal or not rule.causal) and key_row in rows and key_col in cols


def slow_selection(q: Tensor, k: Tensor, grid: BlockGrid, rule: SelectionRule, cached: int) -> Tensor:
    """The rule, one pair at a time in float64, for one sample: (N, Q, K)."""
    heads, n_query, n_key = q.shape[2], q.shape[0], k.shape[0]
    q_mean, k_mean = q.double().mean(dim=1), k.double().mean(dim=1)
    mask = torch.zeros(heads, n_query, n_key, dtype=torch.bool)
    allowed = [[slow_allowed(grid, rule, cached, i, j) for j in range(n_key)] for i in range(n_query)]
    for head in range(heads):
        weights = []
        for i in range(n_query):
            logits = q_mean[i, head] @ k_mean[:, head].T / math.sqrt(q.shape[-1])
            logits[~torch.tensor(allowed[i])] = -math.inf
            weights.append(logits.softmax(0).tolist())
        for frame in range(grid.frame_blocks):
            rows = range(frame * grid.spatial_blocks, (frame + 1) * grid.spatial_blocks)
            ranked = sorted((weights[i][j] for i in rows for j in range(n_key)), reverse=True)
            threshold = ranked[min(rule.pairs(grid), len(ranked) - 1)]
            close = [weight for weight in ranked if abs(weight - threshold) < 1e-5 * threshold]
            assume(len(close) <= 1)  # or rounding decides, and there is nothing to compare
            for i in rows:
                chosen = [j for j in range(n_key) if allowed[i][j] and weights[i][j] >= threshold]
                mask[head, i, chosen or [allowed[i].index(True)]] = True
                if n_query == n_key:
                    mask[head, i, i] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 4),
    rows=st.integers(1, 7),
    cols=st.integers(1, 7),
    block=st.sampled_from([(1, 2, 2), (2, 2, 3), (1, 3, 2)]),
    chunk_frames=st.integers(1, 4),
    local_range=st.integers(1, 4),
    ratio=st.sampled_from([-1.0, 0.0, 0.1, 0.4, 1.0, 3.0]),
    cached=st.integers(0, 3),
    causal=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_selection_is_what_the_rule_says_pair_by_pair(
    frames: int,
    rows: int,
    cols: int,
    block: tuple[int, int, int],
    chunk_frames: int,
    local_range: int,
    ratio: float,
    cached: int,
    causal: bool,
    seed: int,
) -> None:
    grid = BlockGrid(frames=frames, rows=rows, cols=cols, block=block)
    rule = SelectionRule(chunk_frames=chunk_frames, local_range=local_range, ratio=ratio, causal=causal)
    q, k, k_cached = keys_and_queries(grid, cached, seed)
    mask = selection_mask(q, k, grid, rule, cached_k_BCTND=k_cached)
    all_k = k if k_cached is None else torch.cat([k_cached, k], dim=1)
    assert torch.equal(mask[0], slow_selection(q[0], all_k[0], grid, rule, cached))


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    grid = BlockGrid(frames=2, rows=8, cols=6, block=(1, 2, 2))
    q, k, k_cached = keys_and_queries(grid, cached=1, seed=3, batch=2)
    assert k_cached is not None
    together = selection_mask(q, k, grid, RULE, cached_k_BCTND=k_cached)
    for i in range(2):
        alone = selection_mask(q[i : i + 1], k[i : i + 1], grid, RULE, cached_k_BCTND=k_cached[i : i + 1])
        assert torch.equal(together[i], alone[0])


def test_a_later_chunk_is_never_selected() -> None:
    grid = BlockGrid(frames=4, rows=4, cols=4, block=(1, 2, 2))
    q, k, _ = keys_and_queries(grid, cached=0, seed=0)
    rule = SelectionRule(chunk_frames=2, local_range=9, ratio=9.0)
    by_frame = selection_mask(q, k, grid, rule).view(1, 2, 4, 4, 4, 4).any(dim=(0, 1, 3, 5))
    assert by_frame.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, True, True, True],
        [True, True, True, True],
    ]


def test_the_window_of_an_even_range_reaches_further_back_than_ahead() -> None:
    grid = BlockGrid(frames=1, rows=1, cols=4, block=(1, 1, 1))
    rule = SelectionRule(chunk_frames=1, local_range=2, ratio=1.0)
    assert allowed_pairs(grid, rule, 0, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


def test_equal_weights_at_the_threshold_are_all_kept() -> None:
    grid = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    zeros = torch.zeros(1, 4, 4, 1, 4)
    rule = SelectionRule(chunk_frames=1, local_range=9, ratio=1.0, top_k=1)
    assert selection_mask(zeros, zeros, grid, rule).all()


def test_a_query_block_left_with_nothing_keeps_its_first_allowed_key_block() -> None:
    grid = BlockGrid(frames=1, rows=1, cols=3, block=(1, 1, 1))
    k = torch.zeros(1, 3, 1, 1, 1)
    k_cached = torch.tensor([0.0, 9.0, 0.0]).view(1, 3, 1, 1, 1)
    q = torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    rule = SelectionRule(chunk_frames=1, local_range=2, ratio=1.0, top_k=1)
    mask = selection_mask(q, k, grid, rule, cached_k_BCTND=k_cached)
    # Query 0 may see column 0 of both frames, with equal weights above all others; the rest fall back.
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]


def test_without_a_cache_every_block_sees_itself() -> None:
    grid = BlockGrid(frames=2, rows=6, cols=6, block=(1, 2, 2))
    q, k, _ = keys_and_queries(grid, cached=0, seed=5)
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=1.0, top_k=1)
    assert selection_mask(q, k, grid, rule).diagonal(dim1=-2, dim2=-1).all()


@pytest.mark.parametrize(
    ("rule", "pairs"),
    [
        (SelectionRule(chunk_frames=1, local_range=3, ratio=0.4), 313),  # int(28 * 28 * 0.4)
        (SelectionRule(chunk_frames=1, local_range=3, ratio=0.4, top_k=7), 7),
        (SelectionRule(chunk_frames=1, local_range=3, ratio=0.4, top_k=0), 313),
        (SelectionRule(chunk_frames=1, local_range=3, ratio=0.0), 4),
        (SelectionRule(chunk_frames=1, local_range=3, ratio=-1.0), 4),
        (SelectionRule(chunk_frames=1, local_range=3, ratio=1e-6), 1),
        (SelectionRule(chunk_frames=1, local_range=3, ratio=99.0), 28 * 28 * 3 - 1),
        (
            SelectionRule(chunk_frames=1, local_range=3, ratio=0.4, ref_spatial_tokens=780),
            156,
        ),  # half the frame
    ],
)
def test_pairs_follow_from_ratio_and_size(rule: SelectionRule, pairs: int) -> None:
    assert rule.pairs(BlockGrid(frames=3, rows=30, cols=52, block=(1, 8, 8))) == pairs


def test_lists_and_mask_say_the_same() -> None:
    mask = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.6
    mask[1, 2, 3] = False
    selection = BlockSelection.from_mask(mask)
    assert torch.equal(selection.to_mask(), mask)
    assert selection.row_ptr.dtype == selection.col_idx.dtype == torch.int32
    row = (1 * 3 + 0) * 5 + 2
    listed = selection.col_idx[selection.row_ptr[row] : selection.row_ptr[row + 1]]
    assert listed.tolist() == mask[1, 0, 2].nonzero()[:, 0].tolist()


def test_selecting_leaves_no_gradient_behind() -> None:
    grid = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    q, k, _ = keys_and_queries(grid, cached=0, seed=0)
    selection = select_blocks(q.requires_grad_(), k.requires_grad_(), grid, RULE)
    assert not selection.col_idx.requires_grad


def test_blocks_of_another_grid_are_refused() -> None:
    grid = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    q, k, _ = keys_and_queries(grid, cached=0, seed=0)
    with pytest.raises(ValueError, match="queries"):
        selection_mask(q[:, :3], k, grid, RULE)
    with pytest.raises(ValueError, match="whole frame blocks"):
        selection_mask(q, k, grid, RULE, cached_k_BCTND=k[:, :3])


@pytest.mark.parametrize(
    "wrong", [{"chunk_frames": 0}, {"local_range": 0}, {"top_k": -1}, {"ref_spatial_tokens": 0}]
)
def test_a_rule_that_cannot_be_followed_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SelectionRule(**{"chunk_frames": 1, "local_range": 3, "ratio": 0.4, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(("top_k", "pairs"), [(None, 156), (10, 5), (1, 1)])
def test_a_thinned_rule_keeps_its_share_of_the_pairs(top_k: int | None, pairs: int) -> None:
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4, top_k=top_k)
    grid = BlockGrid(frames=3, rows=30, cols=52, block=(1, 8, 8))
    assert rule.thinned(1) is rule
    assert rule.thinned(0.5).pairs(grid) == pairs
    with pytest.raises(ValueError, match="share"):
        rule.thinned(0)
