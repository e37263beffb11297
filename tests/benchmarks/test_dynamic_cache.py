from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ultraflash.models.dynamic_cache import DynamicCacheConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RULE = DynamicCacheConfig(later_steps=2, skip_commit_above=0.9, shrink_sr_window=True, min_sr_blocks=0)


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it is started as a program, so it is not part of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("dynamic_cache", "cascade"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("dynamic_cache")


def test_the_variants_are_no_switch_each_alone_and_all(benchmark_module: ModuleType) -> None:
    def switches(rule: DynamicCacheConfig) -> tuple[bool, bool, bool]:
        return rule.later_steps is not None, rule.skip_commit_above is not None, rule.shrink_sr_window

    assert {name: switches(rule) for name, rule in benchmark_module.variants(RULE).items()} == {
        "none": (False, False, False),
        "steps": (True, False, False),
        "commits": (False, True, False),
        "window": (False, False, True),
        "all": (True, True, True),
    }


def test_psnr_of_a_known_error_and_of_none(benchmark_module: ModuleType) -> None:
    frames = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    assert benchmark_module.psnr(frames, frames) is None
    assert benchmark_module.psnr(frames + 1, frames) == pytest.approx(48.13)


def test_statistics_see_edges_and_changes_and_nothing_else(benchmark_module: ModuleType) -> None:
    still = torch.full((3, 8, 8, 3), 90, dtype=torch.uint8)
    assert benchmark_module.statistics(still) == {"sharpness": 0.0, "motion": 0.0}
    flicker = still.clone()
    flicker[1] += 20
    assert benchmark_module.statistics(flicker) == {"sharpness": 0.0, "motion": 20.0}
    edge = still.clone()
    edge[:, :, 4:] += 40
    assert benchmark_module.statistics(edge)["sharpness"] > 5


def test_the_ablation_runs_on_the_shipped_cascade(
    benchmark_module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "dynamic_cache.json"
    options = ["--groups", "1", "--warmup", "1", "--later-steps", "1"]
    options += ["--warmup-groups", "0", "--size", "0.5K", "--json", str(path)]
    assert benchmark_module.main(options) == 0
    report = json.loads(path.read_text())
    rows = {row["variant"]: row for row in report["variants"]}
    assert list(rows) == ["none", "steps", "commits", "window", "all"]
    assert rows["none"]["psnr_db"] is None
    assert rows["none"]["steps_saved"] == rows["none"]["refreshes_skipped"] == 0
    assert rows["steps"]["steps_saved"] > 0
    assert rows["commits"]["refreshes_skipped"] > 0
    assert rows["window"]["occupancy"]["sr"] == 0
    assert report["commit"] and report["machine"]["cpu"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
