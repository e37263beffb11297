import pytest
import torch

from ultraflash.models.prediction import Prediction, clean_estimate
from ultraflash.models.schedule import add_noise

CLEAN, NOISE, CONDITION = (torch.randn(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))


@pytest.mark.parametrize(
    ("prediction", "output"), [("flow", NOISE - CLEAN), ("clean", CLEAN), ("change", CLEAN - CONDITION)]
)
def test_every_kind_of_perfect_output_stands_for_the_clean_latent(
    prediction: Prediction, output: torch.Tensor
) -> None:
    noisy = add_noise(CLEAN, NOISE, 0.7)
    made = clean_estimate(output, prediction=prediction, noisy=noisy, sigma=0.7, condition=CONDITION)
    torch.testing.assert_close(made, CLEAN, atol=1e-6, rtol=0)


def test_a_change_without_what_it_changes_is_refused() -> None:
    with pytest.raises(ValueError, match="condition"):
        clean_estimate(CLEAN, prediction="change", noisy=NOISE, sigma=1.0)
