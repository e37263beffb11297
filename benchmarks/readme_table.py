"""Write the measured table of the README from the results of the benchmark.

    python benchmarks/cascade.py --json benchmarks/results/cascade.json
    python benchmarks/readme_table.py

The README says between which marks, and from which file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from cascade import table

ROOT = Path(__file__).resolve().parent.parent
MARKS = re.compile(
    r"(?P<head><!-- measured: (?P<results>\S+) -->\n).*?(?P<foot><!-- measured end -->)", re.DOTALL
)


class NoResults(Exception):
    """There is nothing to write into the README, or no place for it."""


def fill(readme: str, root: Path = ROOT) -> str:
    """The README's text with the table of the results that it names, which lie below ``root``."""
    marks = MARKS.search(readme)
    if marks is None:
        raise NoResults("the README has no marks '<!-- measured: FILE -->' and '<!-- measured end -->'")
    path = root / marks["results"]
    if not path.is_file():
        raise NoResults(f"{marks['results']} does not exist: `make readme` measures and writes it")
    shown = section(json.loads(path.read_text()))
    return readme[: marks.start()] + marks["head"] + shown + marks["foot"] + readme[marks.end() :]


def section(report: dict[str, Any]) -> str:
    """The table of one report, after a line that says where it comes from."""
    machine, versions = report["machine"], report["versions"]
    commit, changed = report["commit"].partition("+")[:2]
    origin = [
        f"`{report['preset']}` on {machine['cpu']}",
        f"{machine['cores']} cores",
        f"{machine['memory_gib']:.0f} GiB",
        f"Python {versions['python']}",
        f"torch {versions['torch']}",
        f"commit `{commit[:8]}`{' with changes' if changed else ''}",
        report["date"][:10],
    ]
    return f"\n{', '.join(origin)}:\n\n{table(report['sizes'])}\n\n"


def main() -> int:
    """Rewrite the README; 1 when there are no results."""
    path = ROOT / "README.md"
    try:
        filled = fill(path.read_text())
    except NoResults as error:
        print(f"not written: {error}", file=sys.stderr)
        return 1
    path.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
