from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.few_step import FewStepConfig, FewStepStage
from ultraflash.training.recipes import DEBUG_PRESET


def test_a_roll_out_longer_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="longer than the window of 9"):
        FewStepStage(FewStepConfig(steps=1, preset=DEBUG_PRESET, blocks=4), tmp_path)


@pytest.mark.parametrize(
    "change", [{"blocks": 0}, {"score_steps": 0}, {"held_out_shards": 0}, {"sigma_low": 0.99}]
)
def test_settings_without_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        FewStepConfig(steps=1, **change)  # type: ignore[arg-type]
