"""Frames that exist are enlarged group by group, in the order and number that they came."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import BadConfig, EmptyPrompt
from ultraflash.models.upscaling import Upscaler
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import sample_scene


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.of(Cascade.load("mini"))


def enlarged(upscaler: Upscaler, frames_THWC: Tensor, factor: int = 2, seed: int = 0) -> Tensor:
    _, height, width, _ = frames_THWC.shape
    stream = upscaler.open("green hills", height=height, width=width, factor=factor, seed=seed)
    made, start = [], 0
    while start < len(frames_THWC):
        group = frames_THWC[start : start + upscaler.group_frames(stream)]
        made.append(upscaler.next_group(stream, group))
        start += len(group)
    return torch.cat(made)


def test_every_frame_comes_out_enlarged_and_looks_like_what_went_in(upscaler: Upscaler) -> None:
    large = render(sample_scene(3, "test"), frames=14, height=224, width=392)
    small = (
        functional.avg_pool2d(large.permute(0, 3, 1, 2).float(), 2)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
    )
    made = enlarged(upscaler, small)
    assert made.shape == large.shape and made.dtype == torch.uint8
    errors = [(made[i].float() - large[j].float()).square().mean() for i, j in ((13, 13), (13, 0))]
    assert errors[0] < errors[1]
    assert errors[0] < 255**2 / 10**2.2


def test_a_size_that_is_no_multiple_of_a_latent_is_continued_and_cut(upscaler: Upscaler) -> None:
    frames = torch.full((3, 50, 70, 3), 90, dtype=torch.uint8)
    made = enlarged(upscaler, frames, factor=4)
    assert made.shape == (3, 200, 280, 3)
    assert (made.float() - 90).abs().mean() < 12


def test_later_frames_change_no_earlier_group(upscaler: Upscaler) -> None:
    frames = torch.randint(
        0, 256, (33, 32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    changed = frames.clone()
    changed[21:] = 0
    one, other = enlarged(upscaler, frames), enlarged(upscaler, changed)
    assert torch.equal(one[:21], other[:21])
    assert not torch.equal(one[21:], other[21:])
    assert torch.equal(one, enlarged(upscaler, frames))


def test_what_cannot_be_enlarged_is_refused(upscaler: Upscaler) -> None:
    with pytest.raises(BadConfig, match="these factors: 2, 4, 6; not by 3"):
        upscaler.open("hills", height=64, width=64, factor=3)
    with pytest.raises(BadConfig, match="at most 4096"):
        upscaler.open("hills", height=64, width=2050, factor=2)
    with pytest.raises(EmptyPrompt):
        upscaler.open(" ", height=64, width=64, factor=2)
    stream = upscaler.open("hills", height=64, width=64, factor=2)
    with pytest.raises(ValueError, match="1 to 9 frames of 64x64x3"):
        upscaler.next_group(stream, torch.zeros(10, 64, 64, 3, dtype=torch.uint8))
