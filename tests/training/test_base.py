import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import load_preset
from ultraflash.training.base import BaseStage, BaseStageConfig, ClipBatch, motion_error
from ultraflash.training.recipes import DEBUG_PRESET


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 0},
        {"block_frames": 0},
        {"held_out_shards": 0},
        {"cut_share": 1.5},
        {"object_weight": -1.0},
        {"motion_weight": -1.0},
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


def loss_with(**settings: float) -> float:
    """The loss of one batch, in which everything is an object."""
    batch = ClipBatch(
        latent_BCFHW=torch.randn(2, 32, 3, 2, 2, generator=torch.Generator().manual_seed(0)),
        object_BFHW=torch.ones(2, 3, 2, 2),
        text_BLD=torch.zeros(2, 64, 384),
        weight_BK=torch.ones(2, 1),
    )
    stage = object.__new__(BaseStage)
    stage.config = BaseStageConfig(steps=1, preset=DEBUG_PRESET, **settings)  # type: ignore[arg-type]
    stage.base = load_preset(DEBUG_PRESET).base
    torch.manual_seed(0)
    stage.build()
    return float(stage.loss(batch)[0].detach())


def test_an_error_on_an_object_counts_more() -> None:
    assert loss_with(object_weight=4.0) == pytest.approx(5 * loss_with(), rel=1e-4)


def test_errors_of_motion_add_to_the_loss_and_count_more_on_an_object() -> None:
    frames, once, twice = loss_with(), loss_with(motion_weight=0.5), loss_with(motion_weight=1.0)
    assert once > 1.2 * frames
    assert twice - frames == pytest.approx(2 * (once - frames), rel=1e-4)
    assert loss_with(motion_weight=0.5, object_weight=4.0) == pytest.approx(5 * once, rel=1e-4)


def test_errors_of_motion_are_those_of_changes_within_a_block() -> None:
    rising = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(1, 4, 6, 2, 2)
    # The step between the third and the fourth frame lies between two blocks.
    assert motion_error(rising, 3)[0, :, 0, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert not motion_error(torch.ones(1, 4, 6, 2, 2), 3).any()
    assert not motion_error(rising, 1).any()
