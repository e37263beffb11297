import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.base import BaseStageConfig


@pytest.mark.parametrize("change", [{"blocks": 1}, {"held_out_shards": 0}, {"cut_share": 1.5}])
def test_settings_that_leave_nothing_to_learn_or_to_measure_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        BaseStageConfig(steps=1, **change)  # type: ignore[arg-type]
