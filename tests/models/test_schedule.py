import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.models.schedule import FlowSchedule, add_noise, clean_from_flow, shifted_sigmas


def test_four_steps_of_self_forcing_land_on_the_published_timesteps() -> None:
    schedule = FlowSchedule(nominal_steps=(1000, 750, 500, 250), shift=5.0)
    assert schedule.timesteps == pytest.approx([1000.0, 937.5, 833.3333, 625.0], abs=1e-3)


def test_shifted_table_starts_at_one_and_falls() -> None:
    table = shifted_sigmas(5.0)
    assert table[0] == 1.0
    assert table[-1].item() == pytest.approx(0.0049801, abs=1e-6)
    assert (table.diff() < 0).all()


def test_flow_of_a_noised_latent_gives_the_clean_one_back() -> None:
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    noisy = add_noise(clean, noise, 0.7)
    assert torch.allclose(clean_from_flow(noisy, noise - clean, 0.7), clean, atol=1e-6)


@pytest.mark.parametrize("steps", [(), (500, 750), (1001,), (500, 0), (500, 500)])
def test_impossible_steps_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(BadConfig, match="falling integers"):
        FlowSchedule(nominal_steps=steps)
