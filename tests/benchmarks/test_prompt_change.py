from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_row_for_every_way_of_changing_the_prompt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "prompt_change", raising=False)
    benchmark = importlib.import_module("prompt_change")
    path = tmp_path / "prompt_change.json"
    shown, measured = benchmark.measure, []

    def watched(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
        for row in shown(args):
            measured.append(len(json.loads(path.read_text())["rows"]) if path.exists() else 0)
            yield row

    monkeypatch.setattr(benchmark, "measure", watched)
    assert benchmark.main(["--streams", "2", "--before", "0.5", "--after", "0.5", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert measured == list(range(len(rows))), "what is there is written before the next row is measured"
    assert [(row["transition"], row["groups"]) for row in rows] == [("none", 0), *benchmark.WAYS]
    assert all(0 <= row["adherence"]["value"] <= 1 for row in rows)
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)
