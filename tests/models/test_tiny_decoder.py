from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ultraflash.kernels.pixels import pack
from ultraflash.models.errors import BadConfig
from ultraflash.models.tiny_decoder import (
    ULTRA_DECODER_V3,
    DecoderConfig,
    EncoderConfig,
    TinyAutoencoder,
    TinyDecoder,
    TinyEncoder,
    split_in_time,
)

SMALL = DecoderConfig(latent_channels=4, stage_channels=(12, 8, 8, 8), blocks_per_stage=(2, 1, 1, 0))
SHUFFLED = dataclasses.replace(
    SMALL,
    upsampling="pixel_shuffle",
    first_frame="replicate",
    out_channels=12,
    tail_shuffle=2,
    tail_time_growth=2,
)
LEAN = dataclasses.replace(
    SMALL,
    stage_channels=(12, 8, 6),
    blocks_per_stage=(1, 1, 1),
    space_growth=(2, 3),
    time_growth=(1, 2),
    narrow_first=True,
    first_frame="replicate",
)
CONFIGS = pytest.mark.parametrize("config", [SMALL, SHUFFLED, LEAN], ids=["nearest", "shuffled", "lean"])


def decoder(config: DecoderConfig) -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(config).eval()


def latents(frames: int = 4, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, 4, 3, 5, generator=torch.Generator().manual_seed(1))


@CONFIGS
@torch.no_grad()
def test_chunks_decode_to_the_same_pixels_as_the_whole(config: DecoderConfig) -> None:
    net, z_BTCHW = decoder(config), latents(5)
    memory = net.init_memory()
    parts = [net(part, memory) for part in (z_BTCHW[:, :1], z_BTCHW[:, 1:4], z_BTCHW[:, 4:])]
    torch.testing.assert_close(torch.cat(parts, 1), net(z_BTCHW, net.init_memory()), atol=1e-5, rtol=0)


@CONFIGS
@torch.no_grad()
def test_nothing_looks_ahead(config: DecoderConfig) -> None:
    net, z_BTCHW = decoder(config), latents(4)
    changed_BTCHW = z_BTCHW.clone()
    changed_BTCHW[:, 2:] += 1
    before, after = net(z_BTCHW, net.init_memory()), net(changed_BTCHW, net.init_memory())
    same = 2 * config.frames_per_latent
    assert torch.equal(before[:, :same], after[:, :same])
    assert not torch.equal(before[:, same:], after[:, same:])


@CONFIGS
@torch.no_grad()
def test_interleaved_streams_equal_separate_ones(config: DecoderConfig) -> None:
    net = decoder(config)
    a_BTCHW, b_BTCHW = latents(4), latents(4).flip(1)
    a_memory, b_memory = net.init_memory(), net.init_memory()
    mixed = [
        (net(a, a_memory), net(b, b_memory))
        for a, b in zip(a_BTCHW.split(2, 1), b_BTCHW.split(2, 1), strict=True)
    ]
    for z_BTCHW, parts in ((a_BTCHW, [a for a, _ in mixed]), (b_BTCHW, [b for _, b in mixed])):
        memory = net.init_memory()
        assert torch.equal(torch.cat([net(z, memory) for z in z_BTCHW.split(2, 1)], 1), torch.cat(parts, 1))


@CONFIGS
@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(config: DecoderConfig) -> None:
    net, z_BTCHW = decoder(config), latents(3, batch=2)
    alone = torch.cat([net(z, net.init_memory()) for z in z_BTCHW.split(1)])
    torch.testing.assert_close(net(z_BTCHW, net.init_memory()), alone, atol=1e-5, rtol=0)


@CONFIGS
@torch.no_grad()
def test_output_has_the_promised_shape(config: DecoderConfig) -> None:
    net = decoder(config)
    factor = config.space_factor
    assert net(latents(3), net.init_memory()).shape == (
        1,
        3 * config.frames_per_latent,
        3,
        3 * factor,
        5 * factor,
    )


@torch.no_grad()
def test_decode_clamps_and_uint8_is_its_rounding() -> None:
    net, z_BTCHW = decoder(SMALL), latents(2)
    net[-1].bias.data += 0.5
    pixels_BTCHW = net.decode(z_BTCHW, net.init_memory())
    assert pixels_BTCHW.min() >= 0
    assert pixels_BTCHW.max() <= 1
    frames_BTHWC = net.decode_uint8(z_BTCHW, net.init_memory())
    assert torch.equal(frames_BTHWC, (pixels_BTCHW * 255 + 0.5).to(torch.uint8).permute(0, 1, 3, 4, 2))


@torch.no_grad()
def test_planes_for_an_encoder_are_those_of_the_same_pixels() -> None:
    net, z_BTCHW = decoder(SMALL), latents(2)
    pixels_BTCHW = net(z_BTCHW, net.init_memory())
    planes = net.decode_uint8(z_BTCHW, net.init_memory(), "yuv420p")
    for one, pixels_TCHW in zip(planes, pixels_BTCHW, strict=True):
        assert torch.equal(one, pack(pixels_TCHW.permute(0, 2, 3, 1), layout="yuv420p"))


def test_frames_of_one_sample_stay_together_when_time_grows() -> None:
    x_NCHW = torch.arange(8.0).view(4, 2, 1, 1)  # two frames of two samples, two frames in each
    assert split_in_time(x_NCHW, 2, batch=2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_gradients_reach_every_weight() -> None:
    net = decoder(dataclasses.replace(LEAN, zero_init=False))
    net(latents(3), net.init_memory()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@torch.no_grad()
def test_zero_init_starts_at_zero() -> None:
    net = decoder(dataclasses.replace(LEAN, zero_init=True))
    assert not net(latents(2), net.init_memory()).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks_per_stage": (1,)},
        {"time_growth": (1,)},
        {"tail_shuffle": 2},
        {"stage_channels": (0, 8, 8, 8)},
    ],
)
def test_impossible_configs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        dataclasses.replace(SMALL, **wrong)  # type: ignore[arg-type]


ENCODER = EncoderConfig(latent_channels=4, channels=8, blocks_per_stage=(1, 1, 1))


@torch.no_grad()
def test_encoder_chunks_equal_the_whole() -> None:
    torch.manual_seed(0)
    net, frames_BTCHW = TinyEncoder(ENCODER).eval(), torch.rand(2, 12, 3, 16, 24)
    memory = net.init_memory()
    parts = [net(frames_BTCHW[:, :4], memory), net(frames_BTCHW[:, 4:], memory)]
    whole = net(frames_BTCHW, net.init_memory())
    assert whole.shape == (2, 3, 4, 2, 3)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encoder_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    net, frames_BTCHW = TinyEncoder(ENCODER).eval(), torch.rand(1, 8, 3, 16, 16)
    changed_BTCHW = frames_BTCHW.clone()
    changed_BTCHW[:, 4:] = 0
    before, after = net(frames_BTCHW, net.init_memory()), net(changed_BTCHW, net.init_memory())
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_encoder_refuses_a_broken_number_of_frames() -> None:
    net = TinyEncoder(ENCODER)
    with pytest.raises(ValueError, match="multiple of 4"):
        net(torch.rand(1, 5, 3, 16, 16), net.init_memory())


@pytest.mark.parametrize(
    ("name", "config"), [("tiny_decoder", DecoderConfig()), ("ultra_decoder_v3", ULTRA_DECODER_V3)]
)
def test_official_files_would_load_strictly(golden_dir: Path, name: str, config: DecoderConfig) -> None:
    official = json.loads((golden_dir / "official_keys.json").read_text())[name]
    with torch.device("meta"):
        net = TinyAutoencoder(EncoderConfig(), config)
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == official
