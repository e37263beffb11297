"""``ultraflash bench``: a line for every size, from the real cascade and encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ultraflash.server.cli import main


def test_sizes_are_timed_by_stage_and_told_whether_they_hold_real_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    assert main(["bench", "--preset", "mini", "--sizes", "0.5K", "--groups", "1", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["preset"] == "mini" and document["prompt"]
    assert {"date", "commit", "machine", "versions"} <= document.keys()
    (timing,) = document["sizes"]
    assert (timing["size"], timing["width"], timing["height"]) == ("0.5K", 896, 512)
    assert set(timing["stages_ms"]) == {"base", "upsample", "sr", "decode", "encode"}
    assert sum(timing["stages_ms"].values()) == pytest.approx(1000 / timing["fps"], rel=0.3)
    assert timing["first_frame_s"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert any("896x512" in line for line in lines)
    (verdict,) = [line for line in lines if "real time at 16" in line]
    assert ("yes" if timing["fps"] >= 16 else "no") in verdict.split()


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--groups", "0"], "--groups"), (["--sizes", "8K"], "896x512"), (["--preset", "none"], "no preset")],
)
def test_a_mistake_is_one_clear_line_and_status_2(
    capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert main(["bench", *options]) == 2
    assert told in capsys.readouterr().err
