from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from plain_wan_vae import PlainWanVae

from ultraflash.models.checkpoints.conversion import official_networks
from ultraflash.models.checkpoints.files import store
from ultraflash.models.checkpoints.vae_naming import wan_vae_names
from ultraflash.models.errors import MissingWeights
from ultraflash.models.preset import available_presets, load_preset
from ultraflash.models.wan_vae import VAE, WAN_FILE, WanVideoEncoder

NETWORK: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
SHAPE: dict[str, Any] = {
    **NETWORK,
    "latents_mean": [0.5, -1.0, 0.0, 2.0],
    "latents_std": [2.0, 0.5, 1.0, 3.0],
}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**SHAPE).eval()


@pytest.fixture(scope="module")
def plain() -> PlainWanVae:
    """What Wan's own file is of."""
    torch.manual_seed(1)
    return PlainWanVae(**NETWORK).eval()


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


def test_wans_own_file_makes_the_latents_of_wans_own_network_and_so_does_what_it_is_converted_to(
    plain: PlainWanVae, clip_BTCHW: torch.Tensor, tmp_path: Path
) -> None:
    own, converted = tmp_path / "own", tmp_path / "converted"
    own.mkdir()
    torch.save(plain.state_dict(), own / WAN_FILE)
    store(wan_vae_names(plain.state_dict(), source="x"), converted, VAE)
    with torch.no_grad():
        means = plain.encode(clip_BTCHW.transpose(1, 2) * 2 - 1).transpose(1, 2)
    mean, std = (torch.tensor(SHAPE[f"latents_{name}"]).view(-1, 1, 1) for name in ("mean", "std"))
    for folder in (own, converted):
        encoder = WanVideoEncoder.from_folder(folder, shape=SHAPE)
        latents = encoder.encode(clip_BTCHW, encoder.init_memory())
        torch.testing.assert_close(latents, (means - mean) / std, atol=1e-5, rtol=1e-4)


def test_a_file_that_lacks_a_tensor_or_has_one_more_or_another_size_is_refused_by_name(
    plain: PlainWanVae, tmp_path: Path
) -> None:
    whole = plain.state_dict()
    lacking = {key: value for key, value in whole.items() if key != "encoder.head.2.bias"}
    more = {**whole, "encoder.head.3.bias": torch.zeros(1)}
    for tensors, told in (
        (lacking, r"lacks \['encoder\.conv_out\.bias'\]"),
        (more, r"unknown \['encoder\.head\.3\.bias'\]"),
    ):
        torch.save(tensors, tmp_path / WAN_FILE)
        with pytest.raises(MissingWeights, match=told):
            WanVideoEncoder.from_folder(tmp_path, shape=SHAPE)
    torch.save(whole, tmp_path / WAN_FILE)
    with pytest.raises(MissingWeights, match="does not fit AutoencoderKLWan"):
        WanVideoEncoder.from_folder(tmp_path)


@pytest.mark.parametrize("name", [name for name in available_presets() if load_preset(name).sources])
def test_official_presets_say_where_it_comes_from_and_take_no_other_network(
    name: str, plain: PlainWanVae, tmp_path: Path
) -> None:
    preset = load_preset(name)
    source = preset.source(VAE)
    assert source is not None
    assert source.files == (WAN_FILE,)
    path = tmp_path / WAN_FILE
    torch.save(plain.state_dict(), path)
    with pytest.raises(MissingWeights, match="does not fit AutoencoderKLWan"):
        official_networks(preset, source, [path])
