"""The picture of who imports whom in docs/ARCHITECTURE.md is that of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGES = ("kernels", "models", "server", "training")
ARROW = re.compile(r"^\s+([a-z.]+) --> ([a-z.]+)$", flags=re.MULTILINE)


def drawn() -> set[tuple[str, str]]:
    """The arrows of the page, in the part that is about imports."""
    return set(ARROW.findall(PAGE.partition("## Who knows whom")[2]))


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, without the name of the distribution."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.removeprefix("ultraflash.") for name in names if name.startswith("ultraflash."))


def box_of(module: str, boxes: set[str]) -> str:
    """The innermost box that a module lies in."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(name for name in names if name in boxes)


def found() -> set[tuple[str, str]]:
    """Imports between boxes; a folder and the one around it count as one."""
    boxes = {box for arrow in drawn() for box in arrow} | set(PACKAGES)
    arrows = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            source = box_of(module, boxes)
            for target in imported_modules(path):
                arrows.add((source, box_of(target, boxes)))
    return {(a, b) for a, b in arrows if not (f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}."))}


def test_the_picture_of_imports_is_that_of_the_code() -> None:
    assert found() == drawn()


def test_every_folder_with_code_has_its_place_in_the_picture() -> None:
    boxes = {box for arrow in drawn() for box in arrow}
    assert set(PACKAGES) <= boxes


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:kernels|models|server|training|tests)/[\w/.]+)`", PAGE)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
