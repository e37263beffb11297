import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import load_preset
from ultraflash.training.base import BaseStage, BaseStageConfig
from ultraflash.training.recipes import DEBUG_PRESET


@pytest.mark.parametrize(
    "change",
    [{"blocks": 0}, {"block_frames": 0}, {"held_out_shards": 0}, {"cut_share": 1.5}, {"object_weight": -1.0}],
)
def test_settings_that_leave_nothing_to_learn_or_to_measure_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        BaseStageConfig(steps=1, **change)  # type: ignore[arg-type]


def test_single_blocks_may_be_trained_without_cuts() -> None:
    assert BaseStageConfig(steps=1, blocks=1, block_frames=1, cut_share=0.0).blocks == 1
    with pytest.raises(BadConfig, match="on each side"):
        BaseStageConfig(steps=1, blocks=1)


def test_an_error_on_an_object_counts_more() -> None:
    stage = object.__new__(BaseStage)
    stage.base = load_preset(DEBUG_PRESET).base
    clean = torch.zeros(1, 32, 3, 2, 2)
    object_BFHW = torch.zeros(1, 3, 2, 2)
    object_BFHW[..., 0] = 1.0
    on, beside = clean.clone(), clean.clone()
    on[..., 0], beside[..., 1] = 1.0, 1.0
    weight, sigma = 1 + 4 * object_BFHW, torch.ones(1, 1)
    on_object, off_object = (stage._error(guess, clean, sigma, weight) for guess in (on, beside))
    assert float(on_object / off_object) == pytest.approx(5.0)
