from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it is started as a program, so it is not part of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("precision", "dynamic_cache", "cascade"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("precision")


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="int8 linears want VNNI")
def test_every_number_type_that_runs_here_has_a_row_and_the_others_a_reason(
    benchmark_module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "precision.json"
    assert benchmark_module.main(["--groups", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    rows = {row["variant"]: row for row in report["variants"]}
    assert list(rows) == ["float32", "bfloat16", "int8"]
    assert rows["float32"]["psnr_db"] is None and rows["float32"]["speed"] == 1
    assert 0 < rows["bfloat16"]["latents"] < rows["int8"]["latents"] < 0.05
    assert rows["int8"]["psnr_db"] > 40 and rows["int8"]["fps"] > 0
    assert "sm_89" in report["left_out"]["fp8"]
    printed = capsys.readouterr().out
    assert "fp8 is left out" in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
