import logging

import pytest
import torch
from torch import Tensor

from ultraflash.kernels import block_sparse
from ultraflash.kernels.block_sparse import (
    BackendUnavailable,
    BlockGrid,
    BlockSelection,
    SelectionRule,
    block_sparse_attention,
    gather,
    select_blocks,
)

RULE = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)


def draw(
    blocks: int, tokens: int, dtype: torch.dtype = torch.float32, *, seed: int, batch: int = 2
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, blocks, tokens, 3, 8, generator=generator).to(dtype)


def random_selection(
    query_blocks: int, key_blocks: int, *, seed: int, density: float = 0.4
) -> BlockSelection:
    mask = torch.rand(2, 3, query_blocks, key_blocks, generator=torch.Generator().manual_seed(seed)) < density
    mask[0, 1, 2] = False
    mask[1, 2, 0] = True
    return BlockSelection.from_mask(mask)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_gather_equals_the_reference(dtype: torch.dtype, tolerance: float, tokens: int) -> None:
    q = draw(4, tokens, dtype, seed=0)
    k, v = draw(7, tokens, dtype, seed=1), draw(7, tokens, dtype, seed=2)
    selection = random_selection(4, 7, seed=3)
    fast = block_sparse_attention(q, k, v, selection, backend="gather")
    slow = block_sparse_attention(q.float(), k.float(), v.float(), selection, backend="reference")
    assert fast.shape == q.shape
    assert fast.dtype == dtype
    torch.testing.assert_close(fast.float(), slow, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("limit", [1, 3 * 5 * 8, 10**6])
def test_no_more_is_gathered_at_a_time_than_fits_and_the_result_is_the_same(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = draw(4, 5, seed=0), draw(7, 5, seed=1), draw(7, 5, seed=2)
    selection = random_selection(4, 7, seed=3)
    wanted = block_sparse_attention(q, k, v, selection, backend="gather")
    gathered: list[tuple[int, int]] = []
    attend = gather._attend_equal_rows

    def noting(q_PTD: Tensor, k_blocks: Tensor, v_blocks: Tensor, blocks: Tensor) -> Tensor:
        gathered.append((len(q_PTD), len(blocks) * 5 * 8))
        return attend(q_PTD, k_blocks, v_blocks, blocks)

    monkeypatch.setattr(gather, "GATHERED", limit)
    monkeypatch.setattr(gather, "_attend_equal_rows", noting)
    made = block_sparse_attention(q, k, v, selection, backend="gather")
    # Some processors sum the products of one matrix in another order than those of several.
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-6)
    assert all(numbers <= limit or rows == 1 for rows, numbers in gathered)
    assert sum(rows for rows, _ in gathered) == 2 * 3 * 4


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_a_query_block_that_selects_nothing_gets_zeros_and_finite_gradients(backend: str) -> None:
    q, k, v = (draw(4, 5, seed=i).requires_grad_() for i in range(3))
    selection = random_selection(4, 4, seed=3)
    out = block_sparse_attention(q, k, v, selection, backend=backend)
    assert (out[0, 2, :, 1] == 0).all()
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)


def test_gradients_equal_those_of_the_reference() -> None:
    q, k, v = (draw(n, 5, seed=n).requires_grad_() for n in (4, 6, 7))
    k, v = k[:, :6], v[:, :6]
    selection = random_selection(4, 6, seed=4)
    weight = draw(4, 5, seed=9)

    def gradients(backend: str) -> tuple[Tensor, ...]:
        out = block_sparse_attention(q, k, v, selection, backend=backend)
        return torch.autograd.grad((out * weight).sum(), (q, k, v))

    for fast, slow in zip(gradients("gather"), gradients("reference"), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_blocks_that_are_not_selected_have_no_influence(backend: str) -> None:
    q, k, v = (draw(4, 5, seed=i) for i in range(3))
    mask = torch.ones(2, 3, 4, 4, dtype=torch.bool)
    mask[..., 3] = False
    selection = BlockSelection.from_mask(mask)
    before = block_sparse_attention(q, k, v, selection, backend=backend)
    k[:, 3], v[:, 3] = 1e4, 1e4
    assert torch.equal(block_sparse_attention(q, k, v, selection, backend=backend), before)


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_cached_blocks_are_keys_in_front_of_the_new_ones(backend: str) -> None:
    q, k, v = (draw(4, 5, seed=i) for i in range(3))
    cached_k, cached_v = draw(2, 5, seed=5), draw(2, 5, seed=6)
    selection = random_selection(4, 6, seed=7)
    apart = block_sparse_attention(
        q, k, v, selection, cached_k_BCTND=cached_k, cached_v_BCTND=cached_v, backend=backend
    )
    whole_k, whole_v = torch.cat([cached_k, k], dim=1), torch.cat([cached_v, v], dim=1)
    assert torch.equal(apart, block_sparse_attention(q, whole_k, whole_v, selection, backend=backend))


def test_on_a_ragged_grid_the_padding_takes_part() -> None:
    grid = BlockGrid(frames=1, rows=1, cols=3, block=(1, 1, 2))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=9.0)
    q = k = grid.to_blocks(torch.zeros(1, 3, 1, 4))
    v = grid.to_blocks(torch.ones(1, 3, 1, 4))
    out = grid.to_tokens(block_sparse_attention(q, k, v, select_blocks(q, k, grid, rule)))
    torch.testing.assert_close(out, torch.full((1, 3, 1, 4), 0.75))


def test_streaming_with_a_cache_equals_one_call_when_all_is_allowed() -> None:
    whole, head, tail = (BlockGrid(frames=f, rows=5, cols=6, block=(1, 2, 2)) for f in (4, 1, 3))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=99.0)
    q, k, v = (draw(1, whole.tokens, seed=i).squeeze(1) for i in range(3))

    def attend(
        grid: BlockGrid, at: slice, cached_k: Tensor | None = None, cached_v: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q_blocks, k_blocks, v_blocks = (grid.to_blocks(x[:, at]) for x in (q, k, v))
        selection = select_blocks(q_blocks, k_blocks, grid, rule, cached_k_BCTND=cached_k)
        out = block_sparse_attention(
            q_blocks, k_blocks, v_blocks, selection, cached_k_BCTND=cached_k, cached_v_BCTND=cached_v
        )
        return grid.to_tokens(out), k_blocks, v_blocks

    first, first_k, first_v = attend(head, slice(head.tokens))
    second, *_ = attend(tail, slice(head.tokens, None), first_k, first_v)
    together, *_ = attend(whole, slice(None))
    torch.testing.assert_close(torch.cat([first, second], dim=1), together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["gather", "reference"])
def test_an_empty_cache_is_no_cache(backend: str) -> None:
    grid = BlockGrid(frames=2, rows=4, cols=4, block=(1, 2, 2))
    q, k, v = (draw(grid.n_blocks, grid.block_tokens, seed=i) for i in range(3))
    nothing = k[:, :0]
    without = block_sparse_attention(q, k, v, select_blocks(q, k, grid, RULE), backend=backend)
    selection = select_blocks(q, k, grid, RULE, cached_k_BCTND=nothing)
    empty = block_sparse_attention(
        q, k, v, selection, cached_k_BCTND=nothing, cached_v_BCTND=nothing, backend=backend
    )
    assert torch.equal(empty, without)


def test_an_unknown_backend_is_refused_and_the_known_ones_are_named() -> None:
    x = draw(4, 5, seed=0)
    with pytest.raises(BackendUnavailable, match="gather, reference"):
        block_sparse_attention(x, x, x, random_selection(4, 4, seed=0), backend="cuda-magic")


def test_auto_is_resolved_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    block_sparse._auto_backend.cache_clear()
    x = draw(4, 5, seed=0)
    with caplog.at_level(logging.INFO, logger="ultraflash.kernels.block_sparse"):
        for _ in range(2):
            block_sparse_attention(x, x, x, random_selection(4, 4, seed=0))
    assert [record.getMessage() for record in caplog.records] == [
        "block-sparse attention on cpu uses backend gather"
    ]


def test_shapes_that_do_not_fit_the_selection_are_refused() -> None:
    x = draw(4, 5, seed=0)
    with pytest.raises(ValueError, match="keys and values"):
        block_sparse_attention(x, x, x, random_selection(4, 5, seed=0))
    with pytest.raises(ValueError, match="query blocks"):
        block_sparse_attention(x[:, :3], x, x, random_selection(4, 4, seed=0))
    with pytest.raises(ValueError, match="together"):
        block_sparse_attention(x, x, x, random_selection(4, 4, seed=0), cached_k_BCTND=x)
