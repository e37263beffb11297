"""The benchmarks of attention: what they refuse, and that they run where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ultraflash.kernels.block_sparse import BlockGrid, block_sparse_attention
from ultraflash.kernels.tiles import table
from ultraflash.models.preset import load_preset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """By path: `kernels` is also the name of a package that others import."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other, as scripts of one folder do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_without_a_gpu_nothing_is_timed_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert load("kernels").main([]) == 2
    assert "nothing was timed" in capsys.readouterr().err


def test_the_cpu_table_is_made_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    options = ["--cases", "mini 0.5K", "--seconds", "0", "--dtype", "float32", "--json", str(path)]
    assert load("sparse_cpu").main(options) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert 0 < row["kept"] < 1
    assert row["ratio"] == pytest.approx(row["masked_ms"] / row["gather_ms"])
    assert "| mini 0.5K | float32 |" in capsys.readouterr().out


def test_what_is_numerically_wrong_is_named_and_not_timed() -> None:
    cases = load("attention_case")
    small = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    tensors = cases.draw(
        replace(cases.full_case(frames=1, heads=2), grid=small, size=8, cached_frame_blocks=1),
        torch.float32,
        torch.device("cpu"),
    )
    k, v = tensors.all_keys()
    right = block_sparse_attention(tensors.q_BQTND, k, v, tensors.selection)
    cases.check("right", right, tensors, 1e-4)
    for wrong in (right + 0.01, right * torch.nan):
        with pytest.raises(cases.WrongNumbers, match="wrong is off by"):
            cases.check("wrong", wrong, tensors, 1e-4)


def test_a_second_triton_leaves_the_worse_of_both_and_stops_at_what_survives_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = load("kernel_sweep")
    rows = [row for row in table() if row["survives"]][:1] * 3
    spills = iter((4, 0))
    monkeypatch.setattr(
        sweep,
        "compiled",
        lambda *_: sweep.Usage(registers=255, spilled=next(spills), shared=0, resident=1),
    )
    first, second, third = sweep.beside(rows)
    assert (first["spilled"], first["survives"]) == (4, False)
    assert (second["registers"], second["shared"], second["survives"]) == (255, rows[1]["shared"], True)
    assert third == rows[2]


def test_the_bytes_of_small_operators_are_counted() -> None:
    found = load("small_operators").parts(load_preset("mini"), width=2)
    assert len(found) == 2
    for rows in found.values():
        assert all(0 <= row.fused < row.unfused for row in rows)


def test_the_table_of_the_page_is_that_of_the_file() -> None:
    sweep = load("kernel_sweep")
    page = (BENCHMARKS.parent / "kernels" / "README.md").read_text()
    assert sweep.between_marks(page, sweep.markdown(table())) == page
