import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.trajectory import TrajectoryConfig


@pytest.mark.parametrize("change", [{"solver_steps": 2}, {"motion_weight": -0.5}])
def test_settings_without_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        TrajectoryConfig(steps=1, **change)  # type: ignore[arg-type]
