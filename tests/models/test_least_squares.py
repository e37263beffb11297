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
