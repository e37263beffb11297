import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ultraflash.kernels.attention import dense_attention
from ultraflash.models.dit import CausalDiT
from ultraflash.models.memory_plan import GIB, memory_plan
from ultraflash.models.patch_autoencoder import PatchDecoder
from ultraflash.models.preset import load_preset
from ultraflash.models.upsampler import LatentUpsampler

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def costs():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import costs

        return costs
    finally:
        sys.path.remove(str(BENCHMARKS))


def counted(call) -> float:
    counter = FlopCounterMode(display=False)
    # The counter knows attention as plain products, not as the fused operator of a CPU.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        call()
    return float(counter.get_total_flops())


def test_a_pass_of_the_transformer_costs_what_torch_counts(costs) -> None:
    dit = replace(load_preset("mini").base.dit, layers=2)
    net = CausalDiT(dit)
    text = net.encode_text(torch.randn(1, dit.text_tokens, dit.text_dim))
    keys = torch.randn(1, 70, dit.heads, dit.head_dim)
    queries = 2 * 8 * 14

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return dense_attention(q, keys, keys)

    def call() -> None:
        net(torch.randn(1, 32, 2, 16, 28), torch.full((1, 1), 500.0), text, torch.arange(2), attend)

    # The embedding of time is a few vectors, which the count leaves out.
    time = 2 * (dit.freq_dim * dit.dim + dit.dim**2 + 6 * dit.dim**2)
    attention = costs.dense_attention_flops(dit, queries=queries, keys=70)
    assert counted(call) == costs.dit_flops(dit, tokens=queries, attention=attention) + time


def test_convolutions_cost_what_torch_counts(costs) -> None:
    preset = load_preset("mini")
    size = preset.sizes[0]
    upsampler, decoder = LatentUpsampler(preset.upsampler[size.factor]), PatchDecoder(preset.decoder)
    low = torch.randn(1, preset.group_frames, 32, size.rows, size.cols)
    high = torch.randn(1, preset.group_frames, 32, size.rows * size.factor, size.cols * size.factor)
    assert costs.upsampler_cost(preset, size, width=2).flops == counted(
        lambda: upsampler(low, upsampler.init_memory())
    )
    assert costs.decoder_cost(preset, size, width=2).flops == counted(
        lambda: decoder(high, decoder.init_memory())
    )


def test_bytes_of_weights_are_those_of_the_network(costs) -> None:
    dit = load_preset("mini").base.dit
    net = CausalDiT(dit)
    assert costs.parameters(lambda: CausalDiT(dit)) == sum(p.numel() for p in net.parameters())


def test_sparse_attention_is_counted_by_the_pairs_that_its_rule_keeps(costs) -> None:
    preset = load_preset("ultraflash-1k")
    size = preset.size("1K")
    grid = costs.sr_grid(preset.sr, size, preset.sr.call_frames)
    # 60x104 tokens padded to 8 x 13 blocks; a quarter of 104 squared pairs, times 1560 / 6240.
    assert (grid.spatial_blocks, preset.sr.rule.pairs(grid)) == (104, 2704)
    dense = replace(preset.sr, rule=replace(preset.sr.rule, top_k=10**9))
    sparse_cost = costs.sr_cost(preset, size, width=2)
    assert costs.sr_cost(replace(preset, sr=dense), size, width=2).flops > sparse_cost.flops


@pytest.mark.parametrize(
    "preset", ["mini", "ultraflash-1k", "ultraflash-2k", "ultraflash-long", "self-forcing"]
)
def test_every_preset_has_a_prediction(preset: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "roofline.py"), "--preset", preset, "--gpu", "all"]
    target = tmp_path / "roofline.json"
    done = subprocess.run([*command, "--json", str(target)], capture_output=True, text=True, check=True)
    assert "predicted, not measured" in done.stdout
    report = json.loads(target.read_text())
    assert {"commit", "machine", "versions", "date"} <= report.keys()
    predictions = report["predictions"]
    by_gpu = {entry["gpu"]: entry["fps"] for entry in predictions if entry["size"] == predictions[0]["size"]}
    assert by_gpu["B200"] > by_gpu["H200"] >= by_gpu["H100"] > by_gpu["A100"] > by_gpu["4090"] > 0
    first = predictions[0]
    plan = memory_plan(load_preset(preset), first["size"])
    assert {entry["memory"]["gib"] for entry in predictions if entry["size"] == first["size"]} == {
        plan.total_bytes / GIB
    }
    streams = {
        entry["gpu"]: entry["memory"]["streams"] for entry in predictions if entry["size"] == first["size"]
    }
    assert streams["B200"] > streams["H200"] > streams["H100"] >= streams["A100"] > streams["4090"]
    assert "does not fit" in done.stdout or min(streams.values()) > 0
