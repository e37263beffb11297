from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_schedule_is_held_against_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "fewer_steps", raising=False)
    benchmark = importlib.import_module("fewer_steps")
    path = tmp_path / "steps.json"
    schedules = ["1000,750,500,250", "1000,500", "1000,750,500,250"]
    told = ["--steps", *schedules, "--prompts", "2", "--seconds", "1", "--json", str(path)]
    assert benchmark.main(told) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["steps"] for row in rows] == [[1000, 750, 500, 250], [1000, 500], [1000, 750, 500, 250]]
    assert rows[1]["change"] != rows[0]["change"]
    assert rows[2]["paired"]["value"] == 0 and rows[2]["change"] == rows[0]["change"]
    for row in rows:
        assert row["adherence"] - rows[0]["adherence"] == pytest.approx(row["paired"]["value"])
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)
