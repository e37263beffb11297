"""What clients that nobody here wrote see of a server: schemathesis, the openai client, ffprobe, and a fuzzer.

    python benchmarks/clients.py --json benchmarks/results/clients.json

The tests of this repository that let them loose on a real server run once, with what they check, and leave what they
saw as properties in pytest's report: answers by status for each operation of the API, errors and closes by code and
what the processes grew by, the requests of the client, the description of live media and of a recording. Nothing is
written where one of them fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from provenance import ROOT, provenance

TESTS = (
    "tests/server/jobs/test_fuzz.py",
    "tests/server/jobs/test_openai_transcript.py",
    "tests/server/test_stream_fuzz.py",
    "tests/server/test_live_media.py",
    "tests/server/test_recording.py",
)
SEEN = ("schemathesis", "websocket_fuzz", "openai_transcript", "ffprobe")


def seen_in(report: Path) -> dict[str, Any]:
    """What the tests of a JUnit report have put down; what has several parts comes together."""
    seen: dict[str, Any] = {}
    # Written by the pytest that was just run.
    for entry in ElementTree.parse(report).iter("property"):
        name, value = entry.attrib["name"], json.loads(entry.attrib["value"])
        seen[name] = {**seen.get(name, {}), **value} if isinstance(value, dict) else value
    return seen


def table(seen: dict[str, Any]) -> str:
    """The same as people read it."""
    statuses: Counter[str] = Counter()
    for answers in seen["schemathesis"].values():
        statuses.update(answers)
    fuzz = seen["websocket_fuzz"]
    asked = f"{sum(statuses.values())} requests to {len(seen['schemathesis'])} operations"
    grown = "; ".join(f"{name} {_counts(numbers)}" for name, numbers in fuzz["grown"].items())
    lines = [
        f"schemathesis: {asked}, answers {_counts(statuses)}",
        f"WebSocket fuzz: {fuzz['conversations']} conversations",
        f"    errors: {_counts(fuzz['errors'])}",
        f"    closes: {_counts(fuzz['closes'])}",
        f"    grown by: {grown}",
        "",
        "openai client:",
        *(f"    {line}" for line in seen["openai_transcript"]),
        "",
        "ffprobe:",
        *(f"    {name}: {_counts(stream)}" for name, stream in seen["ffprobe"].items()),
    ]
    return "\n".join(lines)


def _counts(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))


def main() -> int:
    """Runs the tests, prints what they saw, writes JSON; what pytest returns where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
        words = ["-q", "-p", "no:playwright", "-o", "junit_family=xunit1", f"--junitxml={report}", *TESTS]
        # Safe path, since the folder kernels/ hides a package of that name otherwise.
        ran = subprocess.run([sys.executable, "-I", "-c", pytest, *words], cwd=ROOT)
        if ran.returncode != 0:
            return ran.returncode
        seen = seen_in(report)
    if missing := set(SEEN) - set(seen):
        print(f"nothing was said of: {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    print(table(seen))
    if options.json is not None:
        options.json.write_text(json.dumps({**provenance(), **seen}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
