import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.few_step import FewStepConfig


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 0},
        {"score_steps": 0},
        {"held_out_shards": 0},
        {"sigma_low": 0.99},
        {"object_balance": -1.0},
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        FewStepConfig(steps=1, **change)  # type: ignore[arg-type]
