import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.base import BaseStageConfig


@pytest.mark.parametrize(
    "change", [{"blocks": 0}, {"block_frames": 0}, {"held_out_shards": 0}, {"cut_share": 1.5}]
)
def test_settings_that_leave_nothing_to_learn_or_to_measure_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        BaseStageConfig(steps=1, **change)  # type: ignore[arg-type]


def test_single_blocks_may_be_trained_without_cuts() -> None:
    assert BaseStageConfig(steps=1, blocks=1, block_frames=1, cut_share=0.0).blocks == 1
    with pytest.raises(BadConfig, match="on each side"):
        BaseStageConfig(steps=1, blocks=1)
