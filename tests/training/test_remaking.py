from pathlib import Path

import pytest
import torch

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.preset import load_preset
from ultraflash.training.base import TEACHER_FILE
from ultraflash.training.patches import export
from ultraflash.training.recipes import DEBUG_PRESET
from ultraflash.training.remaking import Remaker

BASE = load_preset(DEBUG_PRESET).base


@pytest.fixture
def remaker(tmp_path: Path) -> Remaker:
    torch.manual_seed(0)
    export(CausalDiT(BASE.dit), tmp_path / TEACHER_FILE)
    return Remaker(BASE, tmp_path)


def latents(frames: int) -> torch.Tensor:
    return torch.randn(32, frames, 2, 2, generator=torch.Generator().manual_seed(1))


def test_the_same_seed_mars_alike_and_a_later_block_sees_the_marred_past(remaker: Remaker) -> None:
    text = torch.randn(64, 384)
    first, again, other = (
        remaker(latents(6), text, 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert first.shape == (32, 6, 2, 2)
    assert not torch.equal(first, other)


def test_more_noise_leaves_less_of_the_picture(remaker: Remaker) -> None:
    text = torch.randn(64, 384)
    clean = latents(3)
    made = [remaker(clean, text, sigma, torch.Generator().manual_seed(0)) for sigma in (0.5, 1.0)]
    whole = remaker(latents(3) + 5, text, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(made[1], whole)
    assert not torch.equal(made[0], made[1])


def test_frames_that_are_no_whole_blocks_are_refused(remaker: Remaker) -> None:
    with pytest.raises(BadConfig, match="no whole blocks of 3"):
        remaker(latents(4), torch.randn(64, 384), 0.5, torch.Generator())


def test_without_a_multi_step_generator_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="ultraflash train base"):
        Remaker(BASE, tmp_path)
