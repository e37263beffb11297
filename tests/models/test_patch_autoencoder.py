from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from av import VideoFrame
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ultraflash.kernels.pixels import pack
from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.patch_autoencoder import (
    PatchAutoencoder,
    PatchBasis,
    PatchConfig,
    PatchDecoder,
    in_raster_order,
    patchify,
    raster_to_frames,
)
from ultraflash.models.preset import load_preset

SMALL = PatchConfig(
    latent_channels=6,
    encoder_channels=(4, 4, 4),
    decoder_channels=(8, 6, 4),
    decoder_blocks=(1, 1, 1),
    decoder_neighbours=5,
)
LINEAR = PatchConfig(latent_channels=6, encoder_channels=(), decoder_channels=(), decoder_neighbours=5)
GROWTHS = pytest.mark.parametrize("growth", [(1, 1), (1, 2), (2, 2)])


def trained(config: PatchConfig = SMALL) -> PatchAutoencoder:
    """An autoencoder without a zero in it."""
    torch.manual_seed(0)
    net = PatchAutoencoder(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    net.set_latent_statistics(torch.randn(6), torch.rand(6) + 0.5)
    return net


def latents(frames: int = 4) -> Tensor:
    return torch.randn(1, frames, 6, 2, 3, generator=torch.Generator().manual_seed(1))


def clip(frames: int = 8) -> Tensor:
    return torch.rand(2, frames, 3, 32, 48, generator=torch.Generator().manual_seed(2))


def components(patches_NP: Tensor, channels: int = 6) -> PatchBasis:
    """The first principal components of a few patches."""
    mean_P = patches_NP.mean(0)
    _, singular, rows = torch.linalg.svd(patches_NP - mean_P, full_matrices=False)
    sigma_C = singular[:channels] / (patches_NP.shape[0] - 1) ** 0.5
    return PatchBasis(mean_P=mean_P, components_CP=rows[:channels], sigma_C=sigma_C)


def to_frames(patches_BnhwP: Tensor, tile_frames: int) -> Tensor:
    raster_PBnhw = in_raster_order(patches_BnhwP.movedim(-1, 0), tile_frames)
    return raster_to_frames(raster_PBnhw.movedim(0, -1)).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("tile_frames", [1, 2, 4])
def test_patches_unfold_to_the_frames_they_were_cut_from(tile_frames: int) -> None:
    frames_BTCHW = clip()
    patches_BnhwP = patchify(frames_BTCHW, tile_frames)
    assert patches_BnhwP.shape == (2, 2, 2, 3, 3072)
    assert torch.equal(to_frames(patches_BnhwP, tile_frames), frames_BTCHW)


def test_a_patch_holds_its_own_pixels_only() -> None:
    frames_BTCHW = torch.zeros(1, 8, 3, 32, 48)
    frames_BTCHW[:, 4:, :, 16:, 32:] = 1
    patches_BnhwP = patchify(frames_BTCHW, 2)
    assert patches_BnhwP[0, 1, 1, 2].all()
    assert patches_BnhwP.sum() == 3072


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="16x16"):
        patchify(torch.zeros(1, 4, 3, 24, 32), 2)


@GROWTHS
@torch.no_grad()
def test_fresh_autoencoder_is_the_projection_onto_its_components(growth: tuple[int, int]) -> None:
    config = PatchConfig(
        latent_channels=6, encoder_channels=(4, 4, 4), decoder_channels=(8, 6, 4), decoder_time_growth=growth
    )
    frames_BTCHW = clip()
    patches_NP = patchify(frames_BTCHW, config.tile_frames).flatten(0, 3)
    basis = components(patches_NP)
    net = PatchAutoencoder(config)
    net.init_from_pca(basis, basis.sigma_C**-0.5)
    expected_NP = basis.mean_P + (patches_NP - basis.mean_P) @ basis.components_CP.T @ basis.components_CP
    expected_BTCHW = to_frames(expected_NP.view(2, 2, 2, 3, 3072), config.tile_frames)
    out_BTCHW = net.decoder(net.encoder(frames_BTCHW), net.decoder.init_memory())
    torch.testing.assert_close(out_BTCHW, expected_BTCHW, atol=1e-5, rtol=0)


@torch.no_grad()
def test_latents_of_the_sample_have_the_deviations_that_the_scale_gives_them() -> None:
    frames_BTCHW = clip(32)
    basis = components(patchify(frames_BTCHW, SMALL.tile_frames).flatten(0, 3))
    scale_C = torch.linspace(0.1, 0.6, 6)
    net = PatchAutoencoder(SMALL)
    net.init_from_pca(basis, scale_C)
    latent_CN = net.encoder(frames_BTCHW).transpose(0, 2).flatten(1)
    torch.testing.assert_close(latent_CN.std(1), basis.sigma_C * scale_C, atol=0, rtol=1e-3)
    assert latent_CN.mean(1).abs().max() < 1e-4


@GROWTHS
@torch.no_grad()
def test_chunks_decode_to_the_same_pixels_as_the_whole(growth: tuple[int, int]) -> None:
    config = replace(SMALL, decoder_time_growth=growth)
    net, z_BTCHW = trained(config).decoder, latents(5)
    memory = net.init_memory()
    parts = [net(part, memory) for part in (z_BTCHW[:, :1], z_BTCHW[:, 1:4], z_BTCHW[:, 4:])]
    whole = net(z_BTCHW, net.init_memory())
    assert whole.shape == (1, 20, 3, 32, 48)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_decoder_does_not_look_ahead() -> None:
    net, z_BTCHW = trained().decoder, latents(4)
    changed_BTCHW = z_BTCHW.clone()
    changed_BTCHW[:, 2:] += 1
    before, after = net(z_BTCHW, net.init_memory()), net(changed_BTCHW, net.init_memory())
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


@torch.no_grad()
def test_past_reaches_the_present_through_the_memory() -> None:
    net, z_BTCHW = trained().decoder, latents(2)
    alone = net(z_BTCHW[:, 1:], net.init_memory())
    assert not torch.equal(net(z_BTCHW, net.init_memory())[:, 4:], alone)


class Tiles(nn.Module):
    """In place of a decoder's residual: known frames, cut into tiles of ``tile_frames``."""

    memory_slots = 0

    def __init__(self, frames_BTCHW: Tensor, tile_frames: int) -> None:
        super().__init__()
        self.frames_BTCHW, self.tile_frames = frames_BTCHW, tile_frames

    def forward(self, latent_BTCHW: Tensor, memory: FrameMemory) -> Tensor:
        """(B, 4n/f, Q, 4h, 4w), channels ordered frame, row, column, colour."""
        x = self.frames_BTCHW.unflatten(4, (-1, 4)).unflatten(3, (-1, 4)).unflatten(1, (-1, self.tile_frames))
        return x.permute(0, 1, 2, 5, 7, 3, 4, 6).flatten(2, 5)


@GROWTHS
@torch.no_grad()
def test_the_residual_is_laid_where_its_tiles_are(growth: tuple[int, int]) -> None:
    net = PatchDecoder(replace(SMALL, decoder_neighbours=0, decoder_time_growth=growth))
    for parameter in net.unembed.parameters():
        nn.init.zeros_(parameter)
    frames_BTCHW = clip(8)
    net.residual = Tiles(frames_BTCHW, net.config.tile_frames)
    made_BTCHW = net(torch.zeros(2, 2, 6, 2, 3), net.init_memory())
    torch.testing.assert_close(made_BTCHW - 0.5, frames_BTCHW)


@pytest.mark.parametrize("config", [SMALL, LINEAR, replace(SMALL, decoder_time_growth=(2, 2))])
@torch.no_grad()
def test_uint8_frames_are_the_rounded_pixels(config: PatchConfig) -> None:
    # More rows than are decoded at a time, and a last band of fewer.
    net = trained(config).decoder
    z_BTCHW = torch.randn(2, 3, 6, 6, 5, generator=torch.Generator().manual_seed(1))
    pixels_BTCHW = net.decode(z_BTCHW, net.init_memory())
    frames_BTHWC = net.decode_uint8(z_BTCHW, net.init_memory())
    assert frames_BTHWC.is_contiguous()
    difference = frames_BTHWC.permute(0, 1, 4, 2, 3).float() - pixels_BTCHW * 255
    assert difference.abs().max() < 0.51


@pytest.mark.parametrize("config", [SMALL, LINEAR])
@torch.no_grad()
def test_planes_are_those_of_the_pixels(config: PatchConfig) -> None:
    net = trained(config).decoder
    for parameter in net.parameters():
        parameter.mul_(0.3)
    z_BTCHW = torch.randn(2, 3, 6, 6, 5, generator=torch.Generator().manual_seed(1))
    pixels_BTHWC = net(z_BTCHW, net.init_memory()).permute(0, 1, 3, 4, 2)
    # What is out of range is clamped before it is packed, or else when it is shown.
    assert pixels_BTHWC.min() > 0
    assert pixels_BTHWC.max() < 1
    wanted = pack(pixels_BTHWC.flatten(0, 1), layout="yuv420p").unflatten(0, (2, 12)).int()
    planes = net.decode_uint8(z_BTCHW, net.init_memory(), "yuv420p")
    assert planes.is_contiguous()
    assert planes.dtype == torch.uint8
    difference = (planes.int() - wanted).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01


@torch.no_grad()
def test_colours_out_of_range_look_the_same_from_planes() -> None:
    net = PatchDecoder(replace(LINEAR, decoder_neighbours=0))
    nn.init.zeros_(net.unembed.weight)
    # Every pixel is brighter than white in red, and darker than black in blue.
    net.unembed.bias.copy_(torch.tensor([0.6, 0.1, -0.55]).repeat(len(net.unembed.bias) // 3))
    planes = net.decode_uint8(torch.zeros(1, 1, 6, 2, 3), net.init_memory(), "yuv420p")
    picture = VideoFrame.from_ndarray(planes[0, 0].numpy(), format="yuv420p")
    shown = picture.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
    assert np.abs(shown.astype(int) - (255, 153, 0)).max() <= 2


@torch.no_grad()
def test_decoder_can_do_without_residual() -> None:
    net = trained(replace(LINEAR, decoder_neighbours=0)).decoder
    memory = net.init_memory()
    assert net.decode_uint8(latents(2), memory).shape == (1, 8, 32, 48, 3)


@torch.no_grad()
def test_a_patch_depends_on_the_latents_around_it_and_the_one_before_and_no_others() -> None:
    net = trained(LINEAR).decoder
    z_BTCHW = torch.randn(1, 3, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    patch_of_the_middle = (slice(None), slice(8, 12), slice(None), slice(32, 48), slice(32, 48))
    before = net(z_BTCHW, net.init_memory())[patch_of_the_middle]
    reached = set()
    for frame, row, col in itertools.product(range(3), range(5), range(5)):
        changed_BTCHW = z_BTCHW.clone()
        changed_BTCHW[:, frame, :, row, col] += 1
        if not torch.equal(net(changed_BTCHW, net.init_memory())[patch_of_the_middle], before):
            reached.add((frame, row, col))
    assert reached == {(1, 2, 2)} | {(2, row, col) for row in (1, 2, 3) for col in (1, 2, 3)}


@torch.no_grad()
def test_neighbours_start_without_a_say() -> None:
    torch.manual_seed(0)
    net = PatchDecoder(LINEAR)
    alone = PatchDecoder(replace(LINEAR, decoder_neighbours=0))
    alone.unembed.load_state_dict(net.unembed.state_dict())
    torch.testing.assert_close(net(latents(), net.init_memory()), alone(latents(), alone.init_memory()))


@pytest.mark.parametrize("rank", [-1, 61, True])
def test_neighbours_take_a_rank_that_a_map_can_have(rank: int) -> None:
    with pytest.raises(BadConfig, match=r"rank of a map, 0 \(for none\) to 60, not"):
        PatchConfig(latent_channels=6, decoder_neighbours=rank)


@torch.no_grad()
def test_bfloat16_stays_within_two_grey_levels() -> None:
    net, z_BTCHW = trained().decoder, latents(2)
    exact = net.decode(z_BTCHW, net.init_memory())
    rounded = net.to(torch.bfloat16).decode(z_BTCHW, net.init_memory())
    assert (exact - rounded).abs().max() < 2 / 255


@torch.no_grad()
def test_clip_of_4n_minus_3_frames_makes_n_latent_frames() -> None:
    net, frames_BTCHW = trained().encoder, clip(5)
    latent_BTCHW = net.encode_clip(frames_BTCHW)
    assert latent_BTCHW.shape == (2, 2, 6, 2, 3)
    still_BTCHW = frames_BTCHW[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(latent_BTCHW[:, :1], net(still_BTCHW), atol=1e-5, rtol=0)


@torch.no_grad()
def test_latent_frames_are_encoded_independently() -> None:
    net, frames_BTCHW = trained().encoder, clip(8)
    parts = torch.cat([net(frames_BTCHW[:, :4]), net(frames_BTCHW[:, 4:])], 1)
    torch.testing.assert_close(net(frames_BTCHW), parts, atol=1e-5, rtol=0)


def test_gradients_reach_every_weight() -> None:
    net = trained()
    net.decoder(net.encoder(clip()), net.decoder.init_memory()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(("rows", "columns", "budget"), [(60, 104, 12e9), (32, 56, 4e9)])
def test_shipped_decoder_keeps_its_budget_per_frame(rows: int, columns: int, budget: float) -> None:
    decoder = load_preset("mini").decoder
    assert isinstance(decoder, PatchConfig)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net = PatchDecoder(decoder)
        net(torch.empty(1, 1, 32, rows, columns), net.init_memory())
    assert counter.get_total_flops() / 4 <= budget


@pytest.mark.parametrize("wrong", [{"encoder_channels": (4,)}, {"decoder_time_growth": (1, 3)}])
def test_impossible_configs_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(BadConfig):
        PatchConfig(**wrong)  # type: ignore[arg-type]
