"""Rules of the tree that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kernels", "models", "server", "training", "benchmarks", "tests")
SOURCES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80


def parsed() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in SOURCES]


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_reader_can_hold() -> None:
    found = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {where: lines for where, lines in found.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("name", ["utils", "util", "common", "helpers", "misc"])
def test_every_module_is_named_after_the_noun_it_owns(name: str) -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if path.stem == name] == []


def test_no_checkpoint_is_unpickled() -> None:
    unsafe = [
        f"{name}:{node.lineno}"
        for name, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(ast.unparse(keyword) == "weights_only=True" for keyword in node.keywords)
    ]
    assert unsafe == []


def test_no_card_has_a_blank_to_fill_in() -> None:
    cards = [path for part in ("models", "training") for path in (ROOT / part).rglob("*.md")]
    blanks = {str(path.relative_to(ROOT)): re.findall(r"@\w+@", path.read_text()) for path in cards}
    assert {name: found for name, found in blanks.items() if found} == {}


def test_tests_mirror_the_source_tree() -> None:
    """Tests of a folder stand in a folder of the same name; free-standing tests are in tests/ itself."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    known = {Path("."), Path("browser")}
    assert {str(f) for f in folders - known if not (ROOT / f).is_dir()} == set()
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
