import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import load_preset
from ultraflash.training.base import BaseStage, BaseStageConfig, ClipBatch
from ultraflash.training.recipes import DEBUG_PRESET


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 0},
        {"block_frames": 0},
        {"held_out_shards": 0},
        {"cut_share": 1.5},
        {"object_weight": -1.0},
        {"object_balance": 2.0},
    ],
)
def test_settings_that_leave_nothing_to_learn_or_to_measure_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadConfig, match=next(iter(change))):
        BaseStageConfig(steps=1, **change)  # type: ignore[arg-type]


def test_single_blocks_may_be_trained_without_cuts() -> None:
    assert BaseStageConfig(steps=1, blocks=1, block_frames=1, cut_share=0.0).blocks == 1
    with pytest.raises(BadConfig, match="on each side"):
        BaseStageConfig(steps=1, blocks=1)


def test_an_error_on_an_object_counts_more() -> None:
    batch = ClipBatch(
        latent_BCFHW=torch.randn(2, 32, 3, 2, 2, generator=torch.Generator().manual_seed(0)),
        object_BFHW=torch.ones(2, 3, 2, 2),
        text_BLD=torch.zeros(2, 64, 384),
        weight_BK=torch.ones(2, 1),
    )
    losses = []
    for weight in (0.0, 4.0):
        stage = object.__new__(BaseStage)
        stage.config = BaseStageConfig(steps=1, preset=DEBUG_PRESET, object_weight=weight)
        stage.base = load_preset(DEBUG_PRESET).base
        torch.manual_seed(0)
        stage.build()
        losses.append(float(stage.loss(batch)[0].detach()))
    assert losses[1] == pytest.approx(5 * losses[0], rel=1e-4)
