from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from ultraflash.models.errors import MissingWeights
from ultraflash.models.wan_vae import WanVideoEncoder


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.5, -1.0, 0.0, 2.0],
        latents_std=[2.0, 0.5, 1.0, 3.0],
    ).eval()


@pytest.fixture(scope="module")
def clip_BTCHW() -> torch.Tensor:
    return torch.rand(1, 13, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_latents_are_those_of_diffusers_less_mean_and_over_deviation(
    vae: AutoencoderKLWan, clip_BTCHW: torch.Tensor
) -> None:
    encoder = WanVideoEncoder(vae)
    latents = encoder.encode(clip_BTCHW, encoder.init_memory())
    with torch.no_grad():
        raw = vae.encode(clip_BTCHW.transpose(1, 2) * 2 - 1).latent_dist.mode()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    assert latents.shape == (1, 4, 4, 2, 3)
    torch.testing.assert_close(latents.transpose(1, 2), (raw - mean) / std, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [(1, 4, 4, 4), (5, 8), (9, 4)])
def test_a_stream_encodes_as_the_whole_clip_does(
    vae: AutoencoderKLWan, clip_BTCHW: torch.Tensor, pieces: tuple[int, ...]
) -> None:
    encoder = WanVideoEncoder(vae)
    whole = encoder.encode(clip_BTCHW, encoder.init_memory())
    memory, other = encoder.init_memory(), encoder.init_memory()
    parts = []
    for piece in clip_BTCHW.split(pieces, dim=1):
        parts.append(encoder.encode(piece, memory))
        encoder.encode(torch.zeros_like(piece), other)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_frames_that_make_no_whole_latents_are_refused(
    vae: AutoencoderKLWan, clip_BTCHW: torch.Tensor
) -> None:
    encoder = WanVideoEncoder(vae)
    memory = encoder.init_memory()
    with pytest.raises(ValueError, match="4 frames where 4n-3 are wanted"):
        encoder.encode(clip_BTCHW[:, :4], memory)
    encoder.encode(clip_BTCHW[:, :1], memory)
    with pytest.raises(ValueError, match="5 frames where 4n are wanted"):
        encoder.encode(clip_BTCHW[:, :5], memory)


def test_a_folder_loads_back_equal_and_one_without_a_vae_is_refused(
    vae: AutoencoderKLWan, clip_BTCHW: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(MissingWeights, match="no VAE in"):
        WanVideoEncoder.from_folder(tmp_path / "absent")
    vae.save_pretrained(tmp_path / "vae")
    one, other = WanVideoEncoder(vae), WanVideoEncoder.from_folder(tmp_path / "vae")
    first = clip_BTCHW[:, :1]
    assert torch.equal(one.encode(first, one.init_memory()), other.encode(first, other.init_memory()))
