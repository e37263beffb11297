from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ultraflash.models.tiny_decoder import DecoderConfig, TinyDecoder
from ultraflash.models.upsampler import (
    LatentUpsampler,
    StagedUpsampler,
    StagedUpsamplerConfig,
    UpsamplerConfig,
)

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, fixtures: dict[str, tuple[dict[str, Any], dict[str, Tensor]]]) -> Path:
    for name, (_, tensors) in fixtures.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    index = {name: fixture for name, (fixture, _) in fixtures.items()}
    (folder / "golden.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@torch.no_grad()
def upsampler_fixture(
    parity: ModuleType, net: LatentUpsampler | StagedUpsampler, config: dict[str, Any]
) -> Any:
    keys = {key: list(value.shape) for key, value in net.state_dict().items()}
    parity.draw_into(net, keys)
    latent_BCTHW, memory = torch.randn(1, 4, 3, 4, 5), net.init_memory()
    parts = [net(part, memory).transpose(1, 2) for part in latent_BCTHW.transpose(1, 2).split([1, 2], dim=1)]
    return {"config": config, "keys": keys}, {"input": latent_BCTHW, "chunk0": parts[0], "chunk1": parts[1]}


def test_golden_tensors_of_the_reference_are_met(parity: ModuleType, golden_dir: Path) -> None:
    fixtures = json.loads((golden_dir / "golden.json").read_text(encoding="utf-8"))
    lines = [parity.compare(golden_dir, name, fixture) for name, fixture in fixtures.items()]
    assert [line for line in lines if not line["ok"]] == []
    assert all(set(line) == {"name", "max_abs", "mean_abs", "ok"} for line in lines)


@pytest.mark.parametrize("factor", [1, 4, 6])
def test_upsampler_is_sized_by_its_keys(parity: ModuleType, tmp_path: Path, factor: int) -> None:
    net = LatentUpsampler(
        UpsamplerConfig(channels=4, mid_channels=5, blocks=2, factor=factor, first_frame="zeros")
    )
    fixture, tensors = upsampler_fixture(parity, net, {"memory_init": "zeros"})
    line = parity.compare(write(tmp_path, {"any name": (fixture, tensors)}), "any name", fixture)
    assert line == {"name": "any name", "max_abs": 0.0, "mean_abs": 0.0, "ok": True}


@pytest.mark.parametrize("factors", [(3, 1), (2, 2), (1, 2), (1, 1)])
def test_staged_upsampler_is_sized_by_its_keys(
    parity: ModuleType, tmp_path: Path, factors: tuple[int, int]
) -> None:
    shape = StagedUpsamplerConfig(
        channels=4, stage_channels=(8, 6), blocks_per_stage=(2, 1), stage_factors=factors, first_frame="zeros"
    )
    config = {"stage_channels": [8, 6], "blocks_per_stage": [2, 1], "memory_init": "zero"}
    fixture, tensors = upsampler_fixture(parity, StagedUpsampler(shape), config)
    assert parity.compare(write(tmp_path, {"v": (fixture, tensors)}), "v", fixture)["ok"]


@pytest.mark.parametrize(
    "shape",
    [
        DecoderConfig(
            latent_channels=4,
            stage_channels=(8, 6),
            blocks_per_stage=(2, 0),
            space_growth=(2,),
            time_growth=(4,),
        ),
        DecoderConfig(
            latent_channels=4,
            out_channels=12,
            tail_shuffle=2,
            stage_channels=(8, 6, 6),
            blocks_per_stage=(1, 2, 1),
            space_growth=(2, 2),
            time_growth=(1, 2),
            upsampling="pixel_shuffle",
            first_frame="replicate",
        ),
    ],
    ids=["nearest", "shuffled"],
)
@torch.no_grad()
def test_decoder_is_sized_by_its_keys(parity: ModuleType, tmp_path: Path, shape: DecoderConfig) -> None:
    net = TinyDecoder(shape)
    keys = {f"decoder.{key}": list(value.shape) for key, value in net.state_dict().items()}
    parity.draw_into(net, keys, prefix="decoder.")
    latent_BTCHW = torch.randn(1, 3, 4, 4, 5)
    tensors = {"latent": latent_BTCHW, "pixels_untrimmed": net(latent_BTCHW, net.init_memory())}
    folder = write(tmp_path, {"d": ({"keys": keys}, tensors)})
    assert parity.compare(folder, "d", {"keys": keys})["ok"]


def test_a_wrong_tensor_fails_the_run_and_the_rest_still_reports(parity: ModuleType, tmp_path: Path) -> None:
    good = upsampler_fixture(
        parity, LatentUpsampler(UpsamplerConfig(channels=4, mid_channels=5, blocks=1)), {}
    )
    wrong = (good[0], {**good[1], "chunk1": good[1]["chunk1"] + 1e-3})
    short = (good[0], {**good[1], "chunk0": good[1]["chunk0"][..., :-1]})
    nothing = (good[0], {**good[1], "chunk1": good[1]["chunk1"] * float("nan")})
    fixtures = {
        "wrong": wrong,
        "short": short,
        "unknown": ({"keys": {}}, {}),
        "nan": nothing,
        "cut": good,
        "good": good,
    }
    folder = write(tmp_path, fixtures)
    (folder / "cut.safetensors").write_bytes(b"\0" * 20)
    run = subprocess.run(
        [sys.executable, SCRIPT, "--golden", folder], capture_output=True, text=True, check=False
    )
    lines = {line["name"]: line for line in map(json.loads, run.stdout.splitlines())}
    assert run.returncode == 1
    assert {name: line["ok"] for name, line in lines.items()} == {name: name == "good" for name in fixtures}
    assert "NaN" not in run.stdout and "not finite" in lines["nan"]["error"]
    assert "SafetensorError" in lines["cut"]["error"]
    assert lines["wrong"]["max_abs"] == pytest.approx(1e-3, rel=0.01)
    assert "is not" in lines["short"]["error"]
    assert "no network" in lines["unknown"]["error"]


def test_a_folder_without_fixtures_is_no_success(parity: ModuleType, tmp_path: Path) -> None:
    assert parity.main(["--golden", str(tmp_path)]) == 2


def test_weights_follow_the_rule_of_their_names(parity: ModuleType) -> None:
    assert parity.draw_weight("norm.weight", [4000]).mean() == pytest.approx(1, abs=0.01)
    assert parity.draw_weight("conv.weight", [64, 25, 2, 2]).std() == pytest.approx(0.1, rel=0.05)
    assert parity.draw_weight("conv.bias", [4000]).std() == pytest.approx(0.02, rel=0.05)
    assert parity.draw_weight("head.modulation", [1, 40, 100]).std() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(parity.draw_weight("a", [3]), parity.draw_weight("a", [3]))
