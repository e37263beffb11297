"""Every threat that SECURITY.md lists has an answer and a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (?P<threat>[^|]+) \| (?P<answer>[^|]+) \| `(?P<file>[^`|]+)::(?P<test>\w+)` \|$")


def rows() -> list[re.Match[str]]:
    section = (ROOT / "server" / "SECURITY.md").read_text().split("## Threats\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    matches = [ROW.match(line) for line in lines]
    assert None not in matches, lines[matches.index(None)]
    return [match for match in matches if match is not None]


def names_in(file: Path) -> set[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, functions)}


def test_every_line_names_a_test_that_exists() -> None:
    found = rows()
    assert len(found) > 30
    for row in found:
        file = ROOT / row["file"]
        assert file.is_file(), row["file"]
        assert row["test"] in names_in(file), row[0]
        assert row["test"].startswith("test_")


def test_no_threat_is_listed_twice() -> None:
    threats = [row["threat"] for row in rows()]
    assert len(set(threats)) == len(threats)
