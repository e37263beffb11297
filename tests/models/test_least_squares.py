import pytest
import torch

from ultraflash.models.least_squares import NormalEquations, with_constant


def test_the_map_that_made_the_examples_is_found_whatever_parts_they_come_in() -> None:
    generator = torch.Generator().manual_seed(0)
    x_MK, map_KD = torch.randn(50, 4, generator=generator), torch.randn(5, 3, generator=generator)
    sums = NormalEquations()
    for part_MK in x_MK.split(20):
        sums.add(with_constant(part_MK), with_constant(part_MK) @ map_KD)
    torch.testing.assert_close(sums.solve(0.0), map_KD, atol=1e-4, rtol=0)


def test_ridge_draws_the_map_to_nothing() -> None:
    x_MK = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    sums = NormalEquations()
    sums.add(x_MK, x_MK)
    assert 0.4 < float(sums.solve(1.0).diagonal().mean()) < 0.6


def test_nothing_can_be_fitted_to_nothing() -> None:
    with pytest.raises(ValueError, match="no examples"):
        NormalEquations().solve(1.0)


def test_a_map_in_two_steps_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    scale_K = torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03])
    x_MK, y_MD = torch.randn(200, 5, generator=generator) * scale_K, torch.randn(200, 4, generator=generator)
    y_MD = y_MD + x_MK @ torch.randn(5, 4, generator=generator)
    sums = NormalEquations()
    sums.add(x_MK, y_MD)
    whole_KD = sums.solve(0.0)
    for rank in range(1, 6):
        first_KR, second_RD = sums.solve_in_two(0.0, rank)
        assert first_KR.shape == (5, min(rank, 4)) and second_RD.shape == (min(rank, 4), 4)
        # Eckart and Young: no matrix of this rank is nearer to the whole map's results.
        results_MD = x_MK @ whole_KD
        least = torch.linalg.svdvals(results_MD)[rank:].square().sum()
        lacking = (x_MK @ first_KR @ second_RD - results_MD).square().sum()
        torch.testing.assert_close(lacking, least, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="rank of 1 or more, not 0"):
        sums.solve_in_two(0.0, 0)


def test_in_two_steps_of_full_rank_the_ridge_draws_as_it_does_in_one() -> None:
    generator = torch.Generator().manual_seed(0)
    sums = NormalEquations()
    sums.add(torch.randn(50, 3, generator=generator), torch.randn(50, 7, generator=generator))
    first_KR, second_RD = sums.solve_in_two(0.5, 9)
    assert first_KR.shape == (3, 3)
    torch.testing.assert_close(first_KR @ second_RD, sums.solve(0.5), atol=1e-6, rtol=1e-5)
