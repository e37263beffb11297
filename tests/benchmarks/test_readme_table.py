from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
README = "before\n<!-- measured: results.json -->\nformer numbers\n<!-- measured end -->\nafter\n"
SIZE = {
    "size": "0.5K",
    "width": 896,
    "height": 512,
    "stages_ms": {"base": 1.0},
    "frame_ms": 2.0,
    "frame_cpu_ms": 3.0,
    "fps": 4.0,
    "first_frame_warm_s": 5.0,
    "first_frame_cold_s": 6.0,
    "peak_rss_mib": 7,
}
REPORT = {
    "preset": "mini",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef",
    "machine": {"cpu": "A Processor", "cores": 2, "memory_gib": 7.7},
    "versions": {"python": "3.12.1", "torch": "2.9.1"},
    "sizes": [SIZE],
}


@pytest.fixture
def readme_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it is started as a program, so it is not part of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("cascade", "readme_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("readme_table")


def test_the_table_takes_the_place_of_the_old_one_and_says_where_it_comes_from(
    readme_table: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(REPORT))
    filled = readme_table.fill(README, tmp_path)
    assert filled.startswith("before\n<!-- measured: results.json -->\n")
    assert filled.endswith("<!-- measured end -->\nafter\n")
    assert "former" not in filled
    assert (
        "`mini` on A Processor, 2 cores, 8 GiB, Python 3.12.1, torch 2.9.1, commit `01234567`, 2026-01-02:"
        in filled
    )
    assert "| 0.5K | 896x512 | 1.0 |" in filled
    assert readme_table.fill(filled, tmp_path) == filled


def test_a_tree_with_changes_is_said_to_have_some(readme_table: ModuleType) -> None:
    assert "`01234567` with changes" in readme_table.section({**REPORT, "commit": "0123456789abcdef+changes"})


@pytest.mark.parametrize(
    ("readme", "named"), [(README, "results.json does not exist"), ("nothing", "no marks")]
)
def test_without_results_or_a_place_for_them_it_says_so(
    readme_table: ModuleType, tmp_path: Path, readme: str, named: str
) -> None:
    with pytest.raises(readme_table.NoResults, match=named):
        readme_table.fill(readme, tmp_path)


def test_reports_of_a_gpu_make_one_table(readme_table: ModuleType, tmp_path: Path) -> None:
    size = {
        **SIZE,
        "stages_ms": {"base": 30.0, "sr": 10.0, "encode": 10.0},
        "frame_ms": 50.0,
        "peak_device_mib": 2048,
        "planned_device_mib": 3072,
    }
    report = {
        **REPORT,
        "machine": {"cpu": "A Processor", "cores": 16, "gpus": ["A GPU"]},
        "versions": {"torch": "2.11.0", "triton": "3.6.0"},
        "compile": None,
        "overlap": None,
        "linears": None,
        "sizes": [size],
    }
    for name, overlap, linears in (("a", None, None), ("b", True, None), ("c", None, "fp8")):
        changed = {**report, "overlap": overlap, "linears": linears}
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))
    filled = readme_table.fill(README.replace("results.json", "*.json"), tmp_path)
    assert (
        "A GPU, 16 cores of A Processor, torch 2.11.0, Triton 3.6.0, commit `01234567`, 2026-01-02:" in filled
    )
    row = "| 0.5K | 30.0 | 0.0 | 10.0 | 0.0 | 25.0 | 10.0 | 4.0 | 5.00 | 2.0 | 3.0 |"
    assert f"| mini {row}" in filled
    assert f"| mini, overlap {row}" in filled
    assert f"| mini, fp8 {row}" in filled
    (tmp_path / "d.json").write_text(
        json.dumps({**report, "machine": {**report["machine"], "gpus": ["Another"]}})
    )
    with pytest.raises(readme_table.NoResults, match="several GPUs"):
        readme_table.fill(README.replace("results.json", "*.json"), tmp_path)
