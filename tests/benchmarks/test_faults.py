"""A short fault run on the pattern engine: nothing is lost, and the run would say so if it were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    report = tmp_path / "faults.json"
    command = [sys.executable, str(BENCHMARKS / "faults.py"), "--kills", "3", "--server-share", "0.4"]
    command += ["--longest-wait", "0.5", "--seed", "2", "--jobs", "2", "--json", str(report)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "faults: none" in ran.stdout
    counts = json.loads(report.read_text())["counts"]
    assert set(counts["kills"]) == {"worker", "server"}
    assert counts["resumed"]["restored"] > 0
    assert counts["frames"] > 48
    assert counts["jobs_completed"] > 0
    assert counts["frames_recorded"] > 48


def test_pictures_of_another_state_are_told_apart() -> None:
    import faults

    engine = faults.load_engine(faults.PATTERN, "mini", None)
    replay = {"seed": 7, "fps": 16, "events": [{"group": 0, "prompt": "a hill", "size": "0.5K"}]}
    turned = {**replay, "events": [*replay["events"], {"group": 1, "first_pts_us": 0.0, "prompt": "a lake"}]}
    restarted = {"group": 0, "first_pts_us": 9e6 / 16, "prompt": "a hill", "size": "0.5K", "restarted": True}
    anew = {**replay, "events": [*replay["events"], restarted]}
    frames = [frame for frame, _ in zip(faults.expected_frames(engine, replay), range(30), strict=False)]
    assert faults.wrong_pictures(iter(frames), faults.expected_frames(engine, replay)) == (30, 0)
    assert faults.wrong_pictures(iter(frames), faults.expected_frames(engine, turned)) == (30, 21)
    _, wrong = faults.wrong_pictures(iter(frames), faults.expected_frames(engine, anew))
    assert wrong == 21
    late = [np.roll(frame, 14, axis=1) for frame in frames]
    assert faults.wrong_pictures(iter(late), faults.expected_frames(engine, replay))[1] > 0


FAULTS = (
    "streams_lost",
    "gaps",
    "wrong_pictures",
    "jobs_lost",
    "recorded_differently",
    "corrupt_files",
    "tracebacks",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_lost_is_a_fault(fault: str) -> None:
    import faults

    good = {**dict.fromkeys(FAULTS, 0), "frames": 9, "frames_recorded": 9}
    assert faults.faults_of({**good, "resumed": {"restored": 3}}) == []
    assert faults.faults_of({**good, "resumed": {}, fault: 1}) == [fault]
    assert faults.faults_of({**good, "resumed": {"restarted": 1}}) == ["restarted"]
    assert faults.faults_of({**good, "resumed": {}, "frames_recorded": 0}) == ["not_recorded"]
