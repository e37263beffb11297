import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.training.evaluation.realism import frechet_distance


def test_a_collection_is_at_no_distance_from_itself() -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_distance_of_two_gaussians_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200_000, 2, generator=generator)
    y = torch.randn(200_000, 2, generator=generator) * torch.tensor([3.0, 1.0]) + torch.tensor([2.0, 0.0])
    assert frechet_distance(x, y) == pytest.approx(2.0**2 + (3 - 1) ** 2, rel=0.02)


def test_one_sample_is_no_distribution() -> None:
    with pytest.raises(BadConfig, match="two samples"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
