"""What the tests of foreign clients have seen is read from pytest's own report and put into a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

TEST = """
import json

def test_one(record_property):
    record_property("schemathesis", json.dumps({"GET /a": {200: 3, 404: 1}, "POST /b": {404: 2}}))
    record_property("openai_transcript", json.dumps(["POST /v1/videos 200"]))
    grown = {"web": {"open_files": 0, "bytes": 4096}}
    fuzz = {"conversations": 7, "errors": {"bad_json": 5}, "closes": {1000: 2}, "grown": grown}
    record_property("websocket_fuzz", json.dumps(fuzz))
    record_property("ffprobe", json.dumps({"live.ts": {"codec_name": "h264"}}))

def test_two(record_property):
    record_property("ffprobe", json.dumps({"live.mp4": {"codec_name": "h264"}}))
"""


def test_what_tests_put_down_is_in_the_table(tmp_path: Path) -> None:
    import clients

    report = tmp_path / "report.xml"
    (tmp_path / "test_it.py").write_text(TEST)
    command = [sys.executable, "-I", "-m", "pytest", "-q", "-p", "no:playwright", f"--junitxml={report}"]
    subprocess.run([*command, "test_it.py"], cwd=tmp_path, check=True)
    seen = clients.seen_in(report)
    assert set(seen) == set(clients.SEEN)
    lines = clients.table(seen).splitlines()
    assert "schemathesis: 6 requests to 2 operations, answers 200 3, 404 3" in lines
    assert "WebSocket fuzz: 7 conversations" in lines
    assert "    grown by: web bytes 4096, open_files 0" in lines
    assert "    POST /v1/videos 200" in lines
    assert {"    live.ts: codec_name h264", "    live.mp4: codec_name h264"} <= set(lines)


def test_every_test_that_it_runs_is_there() -> None:
    import clients

    assert all((clients.ROOT / test).is_file() for test in clients.TESTS)
