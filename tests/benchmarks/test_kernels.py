"""The benchmarks of attention: what they refuse, and that they run where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import BlockGrid, block_sparse_attention
from ultraflash.kernels.tiles import survivors, table
from ultraflash.kernels.tuning import tuned

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")


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
    for name in ("kernels", "tile_times"):
        assert load(name).main([]) == 2
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


def small_case(cases: ModuleType) -> Any:
    grid = BlockGrid(frames=1, rows=4, cols=4, block=(1, 2, 2))
    return replace(cases.full_case(frames=1, heads=2), grid=grid, size=16, cached_frame_blocks=1)


@needs_triton
def test_everything_that_is_timed_on_a_gpu_is_right_in_the_interpreter() -> None:
    kernels, calls, cases = load("kernels"), load("kernel_calls"), load("attention_case")
    cpu = torch.device("cpu")
    found = [
        kernels.of_case(small_case(cases), cpu, torch.float32, ours="interpreter", others=False),
        calls.window(
            queries=6, keys=20, heads=2, size=16, dtype=torch.float32, device=cpu, ours="interpreter"
        ),
        calls.small(tokens=5, width=24, heads=2, dtype=torch.float32, device=cpu, ours="interpreter"),
    ]
    rows = [
        row
        for part in found
        for row in kernels.measure("small", part, lambda call: call() is None or 1.0, None)
    ]
    assert len({row["what"] for row in rows}) == len(rows) == 4 + 2 + 2 + 1 + 4 + 6
    assert all(row["megabytes"] > 0 and row["ms"] == 1.0 for row in rows)


@needs_triton
def test_a_cache_that_goes_round_the_end_of_its_ring_is_what_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, cases = load("kernel_calls"), load("attention_case")
    case, spans = small_case(cases), []
    tensors = cases.draw(case, torch.float32, torch.device("cpu"))

    def noting(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        spans.append(options.get("cached_span"))
        return call(*args, **options)

    for name in ("block_sparse_attention", "select_blocks"):
        monkeypatch.setattr(calls, name, partial(noting, getattr(calls, name)))
    list(calls.sparse(case, tensors, ours="interpreter", others=False))
    calls.choices(case, tensors, ours="interpreter")
    assert len(spans) == 4 + 2
    assert all(span is not None and len(span.runs(4)) == 2 for span in spans)


def test_tiles_are_chosen_at_the_largest_size_first(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, cases, tuned_at = load("kernels"), load("attention_case"), []
    monkeypatch.setattr(kernels, "tune_attention", lambda case, *_: tuned_at.append(case))
    sizes = (*cases.mini_cases(), cases.full_case(frames=6, heads=12))
    kernels.tune_largest_first(sizes, torch.device("cpu"), lambda call: 0.0)
    work = [case.grid.n_blocks * case.key_blocks * case.heads * case.size for case in tuned_at]
    assert len(work) == 4 and work == sorted(work, reverse=True)


def test_what_else_attends_densely_is_what_was_found_right(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, asked = load("kernel_calls"), []

    def problem(backend: str, device: torch.device) -> str | None:
        asked.append((backend, device.type))
        return "a probe gave wrong numbers" if backend == "flash" else None

    monkeypatch.setattr(calls, "backend_problem", problem)
    q = torch.zeros(1, 3, 2, 8)
    found = calls.full_attention(q, q, q)
    assert list(found) == ["SDPA", "xformers"]
    assert asked == [("sdpa", "cpu"), ("flash", "cpu"), ("xformers", "cpu")]
    assert found["SDPA"]().shape == q.shape


def test_what_differs_from_the_reference_is_not_timed() -> None:
    calls = load("kernel_calls")
    wanted = torch.ones(3)
    calls.same("right", wanted + 0.01, wanted, 0.1)
    for wrong in (wanted + 0.2, wanted * torch.nan):
        with pytest.raises(sys.modules["attention_case"].WrongNumbers, match="wrong is off by"):
            calls.same("wrong", wrong, wanted, 0.1)


@needs_triton
def test_tiles_that_survived_are_timed_once_and_what_was_fastest_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning, cases = load("kernel_tuning"), load("attention_case")
    runs = tuning.runs_of(cases.draw(small_case(cases), torch.float32, torch.device("cpu")), interpret=True)
    timed: list[str] = []

    def clock(call: Callable[[], Any]) -> float:
        call()
        timed.append("")
        return float(len(timed))

    options = {"arch": "sm_90", "gpu": "some GPU", "width": 64, "check_out": lambda *_: None}
    chosen = tuning.tune_runs(runs, clock, **options)
    assert len(chosen) == len(runs) == 7
    assert len(timed) == sum(
        len(survivors(kernel, "sm_90", "float8_e4m3fn" if "fp8" in kernel else "bfloat16", 64))
        for kernel in runs
    )
    assert tuning.tune_runs(runs, clock, **options) == chosen
    assert [tuned(name) for name in chosen] == list(chosen.values())


def test_a_second_triton_leaves_the_worse_of_both_and_stops_at_what_survives_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = load("kernel_sweep")
    rows = [{**row, "triton": "3.0.0"} for row in table() if row["survives"]][:1] * 3
    spills = iter((4, 0))
    monkeypatch.setattr(
        sweep,
        "compiled",
        lambda *_: sweep.Usage(registers=255, spilled=next(spills), shared=0, resident=1),
    )
    first, second, third = sweep.beside(rows)
    assert (first["spilled"], first["survives"]) == (4, False)
    assert (second["registers"], second["shared"], second["survives"]) == (255, rows[1]["shared"], True)
    assert second["triton"] == f"3.0.0, {version('triton')}"
    assert third == rows[2]


def test_the_bytes_of_small_operators_are_counted_and_written_with_where_they_come_from(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bytes.json"
    load("small_operators").main(["--preset", "mini", "--json", str(path)])
    report = json.loads(path.read_text())
    assert {"commit", "machine", "versions", "date"} <= report.keys()
    assert len(report["networks"]) == 2
    for rows in report["networks"].values():
        assert all(0 <= row["fused"] < row["unfused"] for row in rows)


def test_the_table_of_the_page_is_that_of_the_file() -> None:
    sweep = load("kernel_sweep")
    page = (BENCHMARKS.parent / "kernels" / "README.md").read_text()
    assert sweep.between_marks(page, sweep.markdown(table())) == page


def test_what_others_cannot_run_is_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def refuses() -> torch.Tensor:
        raise RuntimeError("no such block size\nand a long trace")

    runs = load("kernel_calls").runs
    assert runs(("theirs", lambda: torch.zeros(1), 0.1))
    assert not runs(("theirs", refuses, 0.1))
    assert capsys.readouterr().err == "theirs is left out: RuntimeError: no such block size\n"
