"""Wan's own names of its VAE's tensors become diffusers', by a plain network in the one layout and diffusers' in the
other."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from plain_wan_vae import PlainWanVae
from torch import Tensor, nn

from ultraflash.models.checkpoints.vae_naming import wan_vae_names
from ultraflash.models.errors import MissingWeights
from ultraflash.models.weights import check_fit, load_strict

SHAPES = tuple(
    {
        "base_dim": base_dim,
        "z_dim": z_dim,
        "dim_mult": list(dim_mult),
        "num_res_blocks": blocks,
        "temperal_downsample": list(time),
    }
    for base_dim, z_dim, dim_mult, blocks, time in (
        (4, 4, (1, 2, 2, 2), 1, (False, True, True)),
        (4, 2, (1, 2, 4, 4), 2, (True, False, True)),
        (6, 4, (1, 3), 3, (True,)),
    )
)


def drawn(net: nn.Module) -> nn.Module:
    """Weights that keep every layer alive."""
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        scale = 1.0 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 and parameter[0].numel() > 1 else 0.3
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return net.eval()


def full_size() -> tuple[PlainWanVae, AutoencoderKLWan]:
    with torch.device("meta"):
        return PlainWanVae(), AutoencoderKLWan()


def test_every_tensor_of_the_full_size_file_has_its_place_in_diffusers_network() -> None:
    plain, vae = full_size()
    check_fit(vae, wan_vae_names(plain.state_dict(), source="x"), source="x")


def test_diffusers_own_converter_gives_the_same_names() -> None:
    plain, _ = full_size()
    numbered = {key: torch.tensor(i) for i, key in enumerate(plain.state_dict())}
    assert wan_vae_names(numbered, source="x") == convert_wan_vae_to_diffusers(numbered)


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_network_makes_the_numbers_of_the_plain_one_whose_weights_it_takes(shape: dict) -> None:
    plain, vae = drawn(PlainWanVae(**shape)), AutoencoderKLWan(**shape).eval()
    load_strict(vae, wan_vae_names(plain.state_dict(), source="x"), source="x")
    compare(plain, vae, len(shape["temperal_downsample"]), shape["temperal_downsample"].count(True))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_network_makes_the_numbers_of_diffusers_when_it_takes_its_weights(shape: dict) -> None:
    plain, vae = PlainWanVae(**shape).eval(), drawn(AutoencoderKLWan(**shape))
    own_names = wan_vae_names({key: key for key in plain.state_dict()}, source="x")
    theirs = vae.state_dict()
    load_strict(plain, {own: theirs[name] for name, own in own_names.items()}, source="x")
    compare(plain, vae, len(shape["temperal_downsample"]), shape["temperal_downsample"].count(True))


@torch.no_grad()
def compare(plain: nn.Module, vae: AutoencoderKLWan, halvings: int, time_halvings: int) -> None:
    """The same latents of the same clip, and the same clip of the same latents."""
    # Diffusers encodes in pieces of four frames, whatever the network makes of them.
    frames_in = 9 if time_halvings == 2 else 1
    clip_BCTHW = torch.rand(1, 3, frames_in, 3 * 2**halvings, 2 * 2**halvings) * 2 - 1
    latents = plain.encode(clip_BCTHW)
    theirs: Tensor = vae.encode(clip_BCTHW).latent_dist.mode()
    assert latents.std() > 1e-3
    torch.testing.assert_close(theirs, latents, atol=1e-5, rtol=1e-4)
    frames = plain.decode(latents)
    assert frames.std() > 1e-3
    torch.testing.assert_close(vae.decode(latents).sample, frames, atol=1e-4, rtol=1e-3)


def test_names_that_are_diffusers_already_stay() -> None:
    _, vae = full_size()
    named = vae.state_dict()
    assert wan_vae_names(named, source="x").keys() == named.keys()


def test_two_tensors_of_one_name_are_refused() -> None:
    twice = {"conv1.bias": torch.zeros(1), "quant_conv.bias": torch.zeros(1)}
    with pytest.raises(MissingWeights, match=r"quant_conv\.bias twice"):
        wan_vae_names(twice, source="the file")
