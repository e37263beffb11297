import pytest
import torch

from ultraflash.models.errors import InvalidSeed
from ultraflash.models.noise import MAX_SEED, counter_noise


def test_noise_depends_on_seed_role_and_index_alone() -> None:
    first = counter_noise((4, 5), seed=7, role="base", index=3)
    torch.manual_seed(123)
    torch.randn(10)
    assert torch.equal(first, counter_noise((4, 5), seed=7, role="base", index=3))


def test_other_seed_role_or_index_gives_other_noise() -> None:
    reference = counter_noise((64,), seed=7, role="base", index=3)
    for changed in ({"seed": 8}, {"role": "sr"}, {"index": 4}):
        other = counter_noise((64,), **{"seed": 7, "role": "base", "index": 3, **changed})
        assert abs(torch.corrcoef(torch.stack((reference, other)))[0, 1]) < 0.5
        assert not torch.equal(reference, other)


def test_noise_is_standard_normal() -> None:
    noise = counter_noise((100_000,), seed=0, role="base", index=0)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, "7", True])
def test_seed_outside_its_range_is_refused(seed: object) -> None:
    with pytest.raises(InvalidSeed, match="integer from 0"):
        counter_noise((1,), seed=seed, role="base", index=0)  # type: ignore[arg-type]
