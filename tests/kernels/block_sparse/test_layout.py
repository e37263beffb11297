import pytest
import torch

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.kernels.block_sparse.layout import block_means

GRIDS = [
    BlockGrid(frames=2, rows=4, cols=6, block=(1, 2, 3)),
    BlockGrid(frames=4, rows=5, cols=7, block=(2, 4, 4)),
    BlockGrid(frames=3, rows=1, cols=9, block=(2, 3, 2)),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("trained", [False, True])
def test_blocks_and_back_is_the_identity(grid: BlockGrid, trained: bool) -> None:
    x = torch.randn(2, grid.tokens, 3, 4, requires_grad=trained)
    blocks = grid.to_blocks(x)
    assert blocks.shape == (2, grid.n_blocks, grid.block_tokens, 3, 4)
    assert torch.equal(grid.to_tokens(blocks), x)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_token_lands_where_the_order_of_blocks_says(grid: BlockGrid) -> None:
    index = torch.arange(1, grid.tokens + 1, dtype=torch.float32).view(1, -1, 1, 1)
    blocks = grid.to_blocks(index)[0, :, :, 0, 0]
    expected = torch.zeros_like(blocks)
    f, h, w = grid.block
    for frame in range(grid.frames):
        for row in range(grid.rows):
            for col in range(grid.cols):
                block = (frame // f * grid.row_blocks + row // h) * grid.col_blocks + col // w
                token = (frame % f * h + row % h) * w + col % w
                expected[block, token] = 1 + (frame * grid.rows + row) * grid.cols + col
    assert torch.equal(blocks, expected)


def test_block_means_count_the_padding() -> None:
    grid = BlockGrid(frames=1, rows=1, cols=3, block=(1, 1, 2))
    blocks = grid.to_blocks(torch.tensor([2.0, 4.0, 6.0], dtype=torch.bfloat16).view(1, 3, 1, 1))
    assert block_means(blocks).flatten().tolist() == [3.0, 3.0]
    assert block_means(blocks).dtype == torch.float32


def test_a_wrong_number_of_tokens_is_refused() -> None:
    grid = GRIDS[0]
    with pytest.raises(ValueError, match="48 tokens"):
        grid.to_blocks(torch.zeros(1, 47, 1, 4))
    with pytest.raises(ValueError, match="8 blocks of 6"):
        grid.to_tokens(torch.zeros(1, 7, 6, 1, 4))


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 4, 0)])
def test_an_empty_grid_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        BlockGrid(frames=shape[0], rows=shape[1], cols=shape[2], block=(1, 2, 2))


def test_a_block_without_extent_is_refused() -> None:
    with pytest.raises(ValueError, match="three positive"):
        BlockGrid(frames=1, rows=4, cols=4, block=(1, 0, 2))
