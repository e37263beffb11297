"""Compare the networks with golden tensors of the public reference implementation.

``python benchmarks/parity.py --golden DIR`` reads ``DIR/golden.json`` and the safetensors files beside it, prints one
JSON line per fixture (name, max_abs, mean_abs, ok) and exits with 1 when one fails. What a fixture is and how large
its network is follow from its configuration, its state-dict keys and its tensors, never from its name.

No weights are stored: they are drawn by rule from their names, see `draw_weight`.

Shape legend: B batch, T or F latent frames, C channels, H W rows and columns.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ultraflash.kernels.block_sparse import BlockGrid, SelectionRule
from ultraflash.models.dit import CausalDiT, DiTConfig
from ultraflash.models.errors import UltraflashError
from ultraflash.models.frame_memory import FirstFrame
from ultraflash.models.ring_cache import BlockCache, RingCache
from ultraflash.models.schedule import FlowSchedule, shifted_sigmas
from ultraflash.models.streaming_attention import SparseAttention, WindowAttention
from ultraflash.models.tiny_decoder import DecoderConfig, TinyDecoder
from ultraflash.models.upsampler import (
    LatentUpsampler,
    StagedUpsampler,
    StagedUpsamplerConfig,
    UpsamplerConfig,
)

TOLERANCE = 1e-4
"""Largest difference of a flow, a latent or a pixel in float32."""

FIRST_FRAMES: Mapping[str, FirstFrame] = {"replicate": "replicate", "zero": "zeros", "zeros": "zeros"}
"""What the reference calls the memory of a stream's first frame."""

Shapes = Mapping[str, Sequence[int]]
Pairs = Iterable[tuple[Tensor, Tensor]]
"""What came out, and what the reference says."""


def draw_weight(key: str, shape: Sequence[int]) -> Tensor:
    """Return the float32 weight that the rule gives a state-dict key: normal, seeded and scaled by its name."""
    w = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if "modulation" in key:
        w = w / math.sqrt(shape[-1])
    elif len(shape) >= 2:
        w = w / math.sqrt(math.prod(shape[1:]))
    elif key.endswith(".weight"):
        w = 1 + 0.1 * w
    else:
        w = 0.02 * w
    return torch.from_numpy(np.asarray(w, dtype=np.float32))


def draw_into(net: nn.Module, keys: Shapes, *, prefix: str = "") -> None:
    """Load drawn weights, strictly. ``prefix`` is part of the names that weights are drawn by, but not of the net's."""
    drawn = {
        key.removeprefix(prefix): draw_weight(key, shape)
        for key, shape in keys.items()
        if key.startswith(prefix)
    }
    net.load_state_dict(drawn, strict=True)
    net.eval()


def run_upsampler(fixture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairs:
    """Stream ``input`` (B,C,T,H,W) in the pieces that ``chunk0``, ``chunk1``, ... have."""
    keys: Shapes = fixture["keys"]
    net = upsampler_from_keys(keys, fixture["config"])
    draw_into(net, keys)
    memory = net.init_memory()
    start = 0
    for expected_BCTHW in numbered(tensors, "chunk"):
        stop = start + expected_BCTHW.shape[2]
        out_BTCHW = net(tensors["input"][:, :, start:stop].transpose(1, 2), memory)
        yield out_BTCHW.transpose(1, 2), expected_BCTHW
        start = stop


def upsampler_from_keys(keys: Shapes, config: Mapping[str, Any]) -> LatentUpsampler | StagedUpsampler:
    """Build the upsampler (v1 or v3) whose weights have these shapes."""
    first_frame = FIRST_FRAMES[config.get("memory_init", "replicate")]
    if "final.weight" in keys:
        channels, mid = keys["final.weight"][:2]
        shuffles = [
            keys[f"pre_shuffle.{i}.weight"][0] for i in range(amount(keys, r"pre_shuffle\.(\d+)\.weight"))
        ]
        v1 = UpsamplerConfig(
            channels=channels,
            mid_channels=mid,
            blocks=amount(keys, r"blocks\.(\d+)\."),
            factor=math.prod(math.isqrt(width // mid) for width in shuffles),
            first_frame=first_frame,
        )
        return LatentUpsampler(v1)
    widths, blocks = config["stage_channels"], config["blocks_per_stage"]
    blocks = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    factors = []
    layer = 2  # behind the first convolution and its ReLU
    for amount_of_blocks in blocks:
        shuffle = keys.get(f"net.{layer + amount_of_blocks}.block.0.weight")
        factors.append(math.isqrt(shuffle[0] // shuffle[1]) if shuffle else 1)
        layer += amount_of_blocks + 3  # enlargement, 1x1 convolution, and one to the next stage's channels
    v3 = StagedUpsamplerConfig(
        channels=keys["net.0.weight"][1],
        stage_channels=tuple(widths),
        blocks_per_stage=tuple(blocks),
        stage_factors=tuple(factors),
        residual=any(key.startswith("skip_up.") for key in keys),
        first_frame=first_frame,
    )
    return StagedUpsampler(v3)


def run_decoder(fixture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairs:
    """Decode ``latent`` (B,T,C,H,W) at once; the reference's frames are not trimmed."""
    keys: Shapes = fixture["keys"]
    net = TinyDecoder(decoder_from_keys(keys, fixture.get("config") or {}))
    draw_into(net, keys, prefix="decoder.")
    yield net(tensors["latent"], net.init_memory()), tensors["pixels_untrimmed"]


def decoder_from_keys(keys: Shapes, config: Mapping[str, Any]) -> DecoderConfig:
    """Derive a decoder's shape from its weights; memory starts at zero unless the upsampling is learned."""
    stages: list[int] = [keys["decoder.1.weight"][0]]
    blocks: list[int] = []
    space: list[int] = []
    time: list[int] = []
    layer = 3
    while True:
        blocks.append(next(n for n in count() if f"decoder.{layer + n}.conv.0.weight" not in keys))
        layer += blocks[-1]
        grow = keys.get(f"decoder.{layer + 1}.conv.weight")
        if grow is None:
            break
        shuffle = keys.get(f"decoder.{layer}.up.0.weight")
        space.append(math.isqrt(shuffle[0] // shuffle[1]) if shuffle else 2)
        time.append(grow[0] // grow[1])
        stages.append(keys[f"decoder.{layer + 2}.weight"][0])
        layer += 3
    learned = any(".up." in key for key in keys)
    tail = keys[f"decoder.{layer + 1}.weight"][0]
    return DecoderConfig(
        latent_channels=keys["decoder.1.weight"][1],
        out_channels=tail,
        stage_channels=tuple(stages),
        blocks_per_stage=tuple(blocks),
        space_growth=tuple(space),
        time_growth=tuple(time),
        tail_shuffle=math.isqrt(tail // 3),
        upsampling="pixel_shuffle" if learned else "nearest",
        first_frame=FIRST_FRAMES[config.get("memory_init", "replicate" if learned else "zeros")],
    )


def dit_from_fixture(fixture: Mapping[str, Any]) -> CausalDiT:
    """Build a transformer from its configuration, with its drawn weights."""
    config, keys = fixture["config"], fixture["keys"]
    net = CausalDiT(
        DiTConfig(
            in_channels=config["in_dim"],
            out_channels=config["out_dim"],
            dim=config["dim"],
            ffn_dim=config["ffn_dim"],
            layers=config["num_layers"],
            heads=config["num_heads"],
            text_tokens=config["text_len"],
            text_dim=config["text_dim"],
            freq_dim=config["freq_dim"],
            patch=tuple(config["patch_size"]),
            eps=config["eps"],
        )
    )
    draw_into(net, keys)
    return net


def run_base(fixture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairs:
    """Pass every block of ``latents`` at the timesteps that the outputs name, falling, over one cache."""
    net, config = dit_from_fixture(fixture), fixture["config"]
    latents_GBCFHW = tensors["latents"]
    groups, batch, _, frames, rows, cols = latents_GBCFHW.shape
    h, w = net.config.token_grid(rows, cols)
    window = config["local_attn_size"]
    cache = RingCache(
        layers=net.config.layers,
        batch=batch,
        frames=groups * frames if window == -1 else window,
        sink_frames=config["sink_size"],
        frame_tokens=h * w,
        heads=net.config.heads,
        head_dim=net.config.head_dim,
        dtype=torch.float32,
        device=latents_GBCFHW.device,
    )
    text = net.encode_text(tensors["context"][None])
    for group in range(groups):
        positions_F = torch.arange(group * frames, (group + 1) * frames)
        steps = sorted(
            (int(m[1]) for key in tensors if (m := re.fullmatch(rf"block{group}_t(\d+)", key))), reverse=True
        )
        for step in steps:
            timestep_BF = torch.full((batch, frames), float(step))
            flow = net(latents_GBCFHW[group], timestep_BF, text, positions_F, WindowAttention(cache))
            yield flow, tensors[f"block{group}_t{step}"]
        cache.commit()


def run_sr(fixture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairs:
    """Pass every group of noise and condition once at timestep 1000, over a cache of ``kv_len`` temporal blocks."""
    net, config = dit_from_fixture(fixture), fixture["config"]
    frames, rows, cols = tensors["noise"].shape[2:]
    h, w = net.config.token_grid(rows, cols)
    grid = BlockGrid(frames=frames, rows=h, cols=w, block=tuple(config["sparse_block_size"]))
    rule = SelectionRule(
        chunk_frames=config["stream_chunk_size"],
        local_range=config["sparse_local_range"],
        ratio=config["sparse_top_k_ratio"],
        top_k=config["sparse_top_k"],
        ref_spatial_tokens=config["sparse_ref_spatial_tokens"],
        causal=config["sparse_causal"],
    )
    cache = BlockCache(
        layers=net.config.layers,
        batch=1,
        frame_blocks=fixture["kv_len"],
        spatial_blocks=grid.spatial_blocks,
        block_tokens=grid.block_tokens,
        heads=net.config.heads,
        head_dim=net.config.head_dim,
        dtype=torch.float32,
        device=tensors["noise"].device,
    )
    text = net.encode_text(tensors["context"][None])
    for group, expected_CFHW in enumerate(numbered(tensors, "flow")):
        latent_BCFHW = torch.cat([tensors["noise"][group], tensors["condition"][group]])[None]
        positions_F = torch.arange(group * frames, (group + 1) * frames)
        attention = SparseAttention(cache, grid, rule)
        flow = net(latent_BCFHW, torch.full((1, 1), 1000.0), text, positions_F, attention)
        cache.commit()
        yield flow[0], expected_CFHW


def run_schedule(fixture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairs:
    """Compare the warped noise levels and the timesteps that few-step generation takes from them."""
    schedule = FlowSchedule(nominal_steps=tuple(fixture["nominal"]), shift=fixture["shift"])
    sigmas = shifted_sigmas(fixture["shift"])
    first, last = fixture["sigmas_first"], fixture["sigmas_last"]
    yield (
        torch.tensor(schedule.timesteps, dtype=torch.float64),
        torch.tensor(fixture["warped"], dtype=torch.float64),
    )
    yield sigmas[: len(first)], torch.tensor(first, dtype=torch.float64)
    yield sigmas[-len(last) :], torch.tensor(last, dtype=torch.float64)


def runner_of(fixture: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Mapping[str, Tensor]], Pairs]:
    """Tell what a fixture is of by what it holds.

    Raises:
        ValueError: nothing known.
    """
    keys = fixture.get("keys", {})
    if "warped" in fixture:
        return run_schedule
    if "patch_embedding.weight" in keys:
        return run_sr if "kv_len" in fixture else run_base
    if "decoder.1.weight" in keys:
        return run_decoder
    if "final.weight" in keys or "net.0.weight" in keys:
        return run_upsampler
    raise ValueError("no network here has such keys")


def numbered(tensors: Mapping[str, Tensor], stem: str) -> list[Tensor]:
    """Return the tensors called stem0, stem1, ... in that order."""
    return [tensors[f"{stem}{i}"] for i in range(amount(tensors, rf"{stem}(\d+)$"))]


def amount(keys: Iterable[str], pattern: str) -> int:
    """Return how many different numbers a pattern finds at the start of keys."""
    return len({match[1] for key in keys if (match := re.match(pattern, key))})


@torch.no_grad()
def compare(folder: Path, name: str, fixture: Mapping[str, Any]) -> dict[str, Any]:
    """Run one fixture and return its line; an error in it is a failure that says why."""
    file = folder / f"{name}.safetensors"
    try:
        tensors = load_file(file) if file.is_file() else {}
        pairs = [(out.double(), expected.double()) for out, expected in runner_of(fixture)(fixture, tensors)]
        misfits = [f"{tuple(out.shape)} is not {tuple(e.shape)}" for out, e in pairs if out.shape != e.shape]
        if misfits or not pairs:
            raise ValueError("; ".join(misfits) or "nothing to compare")
    except (UltraflashError, SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return failure(name, f"{type(error).__name__}: {error}")
    differences = torch.cat([(out - expected).abs().flatten() for out, expected in pairs])
    worst = float(differences.max())
    if not math.isfinite(worst):
        return failure(name, "ValueError: what came out, or what should, is not finite")
    return {"name": name, "max_abs": worst, "mean_abs": float(differences.mean()), "ok": worst <= TOLERANCE}


def failure(name: str, error: str) -> dict[str, Any]:
    """The line of a fixture without a difference. JSON has no word for NaN."""
    return {"name": name, "max_abs": None, "mean_abs": None, "ok": False, "error": error}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every fixture of a folder; 0 when all fit, 1 when one doesn't, 2 when there is nothing to compare."""
    parser = argparse.ArgumentParser(
        description="Compare the networks with golden tensors, one JSON line per fixture."
    )
    parser.add_argument("--golden", type=Path, required=True, metavar="DIR", help="folder with golden.json")
    folder: Path = parser.parse_args(arguments).golden
    index = folder / "golden.json"
    if not index.is_file():
        print(f"{index} does not exist; --golden wants the folder that holds golden.json", file=sys.stderr)
        return 2
    failed = False
    for name, fixture in json.loads(index.read_text(encoding="utf-8")).items():
        line = compare(folder, name, fixture)
        print(json.dumps(line), flush=True)
        failed = failed or not line["ok"]
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
