from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig
from ultraflash.models.upsampler import (
    LatentUpsampler,
    StagedUpsampler,
    StagedUpsamplerConfig,
    UpsamplerConfig,
    stage_factors,
)

Upsampler = LatentUpsampler | StagedUpsampler
NETS = pytest.mark.parametrize("kind", ["v1 x2", "v1 x3", "v1 x4", "v1 x6", "v3 x2", "v3 x4"])


def upsampler(kind: str) -> Upsampler:
    torch.manual_seed(0)
    version, factor = kind.split(" x")
    if version == "v1":
        return LatentUpsampler(
            UpsamplerConfig(channels=4, mid_channels=12, blocks=2, factor=int(factor))
        ).eval()
    stages = {"2": (2, 1, 1), "4": (2, 2, 1)}[factor]
    config = StagedUpsamplerConfig(
        channels=4, stage_channels=(16, 12, 12), blocks_per_stage=(2, 1, 1), stage_factors=stages
    )
    return StagedUpsampler(config).eval()


def latents(frames: int = 5, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, 4, 3, 5, generator=torch.Generator().manual_seed(1))


@NETS
@torch.no_grad()
def test_chunks_enlarge_like_the_whole(kind: str) -> None:
    net, z_BTCHW = upsampler(kind), latents()
    memory = net.init_memory()
    parts = [net(part, memory) for part in (z_BTCHW[:, :1], z_BTCHW[:, 1:4], z_BTCHW[:, 4:])]
    whole = net(z_BTCHW, net.init_memory())
    factor = int(kind[-1])
    assert whole.shape == (1, 5, 4, 3 * factor, 5 * factor)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


@NETS
@torch.no_grad()
def test_nothing_looks_ahead(kind: str) -> None:
    net, z_BTCHW = upsampler(kind), latents()
    changed_BTCHW = z_BTCHW.clone()
    changed_BTCHW[:, 3:] += 1
    before, after = net(z_BTCHW, net.init_memory()), net(changed_BTCHW, net.init_memory())
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


@NETS
@torch.no_grad()
def test_past_reaches_the_present_through_the_memory(kind: str) -> None:
    net, z_BTCHW = upsampler(kind), latents(2)
    alone = net(z_BTCHW[:, 1:], net.init_memory())
    assert not torch.equal(net(z_BTCHW, net.init_memory())[:, 1:], alone)


@NETS
@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(kind: str) -> None:
    net, z_BTCHW = upsampler(kind), latents(3, batch=2)
    alone = torch.cat([net(z, net.init_memory()) for z in z_BTCHW.split(1)])
    torch.testing.assert_close(net(z_BTCHW, net.init_memory()), alone, atol=1e-5, rtol=0)


@NETS
def test_gradients_reach_every_weight(kind: str) -> None:
    net = upsampler(kind)
    net(latents(3), net.init_memory()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_factors_split_into_twos_first() -> None:
    assert [stage_factors(f) for f in (1, 2, 3, 4, 6)] == [(1,), (2,), (3,), (2, 2), (2, 3)]


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(BadConfig):
        UpsamplerConfig(factor=0)
    with pytest.raises(BadConfig):
        StagedUpsamplerConfig(stage_factors=(2,))


def test_official_file_would_load_strictly(golden_dir: Path) -> None:
    official = json.loads((golden_dir / "official_keys.json").read_text())["latent_upsampler"]
    with torch.device("meta"):
        net = LatentUpsampler(UpsamplerConfig())
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == official
