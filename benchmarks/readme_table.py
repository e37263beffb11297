"""Write the measured tables of the README from the results of the benchmark.

    python benchmarks/cascade.py --json benchmarks/results/cascade.json
    python benchmarks/readme_table.py

The README says between which marks, and from which file. A pattern of files, such as those of a GPU, makes one table of
them all.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from cascade import table
from result_table import markdown_table

ROOT = Path(__file__).resolve().parent.parent
MARKS = re.compile(
    r"(?P<head><!-- measured: (?P<results>\S+) -->\n).*?(?P<foot><!-- measured end -->)", re.DOTALL
)


class NoResults(Exception):
    """There is nothing to write into the README, or no place for it."""


def fill(readme: str, root: Path = ROOT) -> str:
    """The README's text with the tables of the results that it names, which lie below ``root``."""
    if MARKS.search(readme) is None:
        raise NoResults("the README has no marks '<!-- measured: FILE -->' and '<!-- measured end -->'")
    return MARKS.sub(lambda marks: marks["head"] + shown(marks["results"], root) + marks["foot"], readme)


def shown(results: str, root: Path) -> str:
    """What stands between two marks that name these results."""
    reports = [json.loads(path.read_text()) for path in sorted(root.glob(results))]
    if not reports:
        raise NoResults(f"{results} does not exist: `make readme` or `make gpu` measures and writes it")
    return joint_section(reports) if "*" in results else section(reports[0])


def section(report: dict[str, Any]) -> str:
    """The table of one report, after a line that says where it comes from."""
    machine, versions = report["machine"], report["versions"]
    origin = [
        f"`{report['preset']}` on {machine['cpu']}",
        f"{machine['cores']} cores",
        f"{machine['memory_gib']:.0f} GiB",
        f"Python {versions['python']}",
        f"torch {versions['torch']}",
        f"commit {short_commit(report)}",
        report["date"][:10],
    ]
    return f"\n{', '.join(origin)}:\n\n{table(report['sizes'])}\n\n"


def short_commit(report: dict[str, Any]) -> str:
    """The commit that was measured, and whether the tree had changes."""
    commit, changed = report["commit"].partition("+")[:2]
    return f"`{commit[:8]}`{' with changes' if changed else ''}"


def joint_section(reports: list[dict[str, Any]]) -> str:
    """One table of several reports of one GPU, a row a size. Raises NoResults where they are of several."""
    machine, versions = reports[0]["machine"], reports[0]["versions"]
    if len({(*report["machine"]["gpus"], *map(str, report["versions"].items())) for report in reports}) > 1:
        raise NoResults("these reports are of several GPUs or versions; `make gpu` makes all of them anew")
    commits = sorted({short_commit(report) for report in reports})
    head = [
        "preset",
        "size",
        "base ms",
        "upsample ms",
        "sr ms",
        "decode ms",
        "networks fps",
        "encode ms",
        "fps",
    ]
    head += ["first frame warm s", "GPU GiB", "by plan"]
    in_order = sorted(reports, key=lambda report: (report["preset"], switches_of(report)))
    rows = [gpu_row(report, size) for report in in_order for size in report["sizes"]]
    origin = (
        f"{machine['gpus'][0]}, {machine['cores']} cores of {machine['cpu']}, torch {versions['torch']}, "
        f"Triton {versions['triton']}, commit {', '.join(commits)}, {reports[0]['date'][:10]}"
    )
    return f"\n{origin}:\n\n{markdown_table(head, rows)}\n\n"


def switches_of(report: dict[str, Any]) -> list[str]:
    """What of the execution was switched on beside what the preset says."""
    switches = [name for name in ("compile", "overlap") if report[name]]
    return [*switches, report["linears"]] if report["linears"] else switches


def gpu_row(report: dict[str, Any], size: dict[str, Any]) -> list[str]:
    """One size of one report."""
    stages = dict(size["stages_ms"])
    encode = stages.pop("encode")
    return [
        f"{report['preset']}{''.join(f', {name}' for name in switches_of(report))}",
        size["size"],
        *(f"{stages.get(name, 0.0):.1f}" for name in ("base", "upsample", "sr", "decode")),
        f"{1e3 / (size['frame_ms'] - encode):.1f}",
        f"{encode:.1f}",
        f"{size['fps']:.1f}",
        f"{size['first_frame_warm_s']:.2f}",
        f"{size['peak_device_mib'] / 1024:.1f}",
        f"{size['planned_device_mib'] / 1024:.1f}",
    ]


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
