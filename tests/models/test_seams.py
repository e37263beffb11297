from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import load_preset
from ultraflash.models.seams import SeamMender


def _smooth_and_marred(seed: int) -> tuple[Tensor, Tensor]:
    """Frames (64, 2, 8, 12) that rise evenly, and the same with an error of its own for every 2x2 token."""
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(64, 2, 1, 1, generator=generator)
    smooth_NCHW = slopes * torch.linspace(-1, 1, 12).expand(64, 2, 8, 12)
    error = 0.3 * torch.randn(64, 2, 4, 6, generator=generator)
    return smooth_NCHW, smooth_NCHW + error.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_fitted_map_brings_tokens_closer_to_what_they_should_have_been() -> None:
    smooth_NCHW, marred_NCHW = _smooth_and_marred(0)
    mender = SeamMender(2, (1, 2, 2))
    mender.fit(marred_NCHW, smooth_NCHW, channels=2, ridge=1e-3)
    unseen_NCHW, marred_NCHW = _smooth_and_marred(1)
    with torch.no_grad():
        mended_NCHW = mender(marred_NCHW.unsqueeze(2)).squeeze(2)
    before = (marred_NCHW - unseen_NCHW).square().mean()
    assert (mended_NCHW - unseen_NCHW).square().mean() < 0.6 * before


def test_channels_behind_the_given_ones_stay_as_they_are() -> None:
    smooth_NCHW, marred_NCHW = _smooth_and_marred(0)
    mender = SeamMender(2, (1, 2, 2))
    mender.fit(marred_NCHW, smooth_NCHW, channels=1, ridge=1e-3)
    with torch.no_grad():
        mended_NCHW = mender(marred_NCHW.unsqueeze(2)).squeeze(2)
    assert torch.equal(mended_NCHW[:, 1], marred_NCHW[:, 1])
    assert not torch.equal(mended_NCHW[:, 0], marred_NCHW[:, 0])


def test_without_a_fit_nothing_changes_and_frames_are_mended_one_by_one() -> None:
    mender = SeamMender(2, (1, 2, 2))
    latent_BCFHW = torch.randn(2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(mender(latent_BCFHW), latent_BCFHW)
        torch.nn.init.normal_(mender.conv.weight, generator=torch.Generator().manual_seed(3))
        alone = torch.cat([mender(frame) for frame in latent_BCFHW.split(1, dim=2)], dim=2)
        torch.testing.assert_close(mender(latent_BCFHW), alone)


def test_tokens_must_be_square_only_where_seams_are_mended() -> None:
    dit = replace(load_preset("mini").base.dit, position_grid=None)
    with pytest.raises(BadConfig, match="square tokens, not of 1x2") as caught:
        replace(dit, mend_seams=True, patch=(1, 1, 2))
    assert caught.value.param == "mend_seams"
    assert replace(dit, mend_seams=False, patch=(1, 1, 2)).patch == (1, 1, 2)


def test_super_resolution_that_should_mend_seams_is_refused() -> None:
    sr = load_preset("mini").sr
    assert sr is not None
    with pytest.raises(BadConfig, match="only the base's seams are mended"):
        replace(sr, dit=replace(sr.dit, mend_seams=True))
