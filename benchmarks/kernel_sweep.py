"""Compile every candidate tile of every kernel for every device, without a GPU, and write the table of those that fit.

``python benchmarks/kernel_sweep.py`` rewrites ``kernels/tiles.json`` and the table in ``kernels/README.md``. Options
narrow it down; rows that they leave out stay as they are. A compilation takes about a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.candidates import VARIANTS
from ultraflash.kernels.compilation import compile_ahead
from ultraflash.kernels.devices import DEVICES
from ultraflash.kernels.tiles import Tiles

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
MARKS = ("<!-- tiles: written by benchmarks/kernel_sweep.py -->", "<!-- end of tiles -->")
Row = dict[str, Any]


def sweep(
    kernel: str, arch: str, dtype: str, width: int, *, candidates: Sequence[Tiles], enough: int | None
) -> Iterator[Row]:
    """Rows of the table for one kernel on one device, until `enough` candidates survived, or all of them."""
    variant = VARIANTS[kernel]
    survivors = 0
    for tiles in candidates:
        constants = variant.constants(arch=arch, dtype=dtype, width=width, tiles=tiles)
        usage = compile_ahead(
            variant.kernel(), constants, arch=arch, dtype=dtype, warps=tiles.warps, stages=tiles.stages
        )
        yield {
            "kernel": kernel,
            "arch": arch,
            "dtype": dtype,
            "width": width,
            **asdict(tiles),
            **asdict(usage),
            "survives": usage.survives,
        }
        survivors += usage.survives
        if survivors == enough:
            return


def groups(
    kernels: Sequence[str], archs: Sequence[str], dtypes: Sequence[str], widths: Sequence[int]
) -> Iterator[tuple[str, str, str, int]]:
    """Kernel, device, data type and width of what is to be compiled; no data types and no widths stand for all."""
    for kernel in kernels:
        variant = VARIANTS[kernel]
        for group in itertools.product(variant.archs, variant.dtypes, variant.widths):
            arch, dtype, width = group
            if arch in archs and (not dtypes or dtype in dtypes) and (not widths or width in widths):
                yield kernel, arch, dtype, width


def key(row: Row) -> tuple[Any, ...]:
    """What a row is about, and the order of the table; candidates keep the order in which they were tried."""
    return tuple(VARIANTS).index(row["kernel"]), tuple(DEVICES).index(row["arch"]), row["dtype"], row["width"]


def markdown(rows: Sequence[Row]) -> str:
    """The tiles in use: the first survivor of each group."""
    lines = [
        "| kernel | device | dtype | D | queries x keys | warps | stages | registers | spilled | KiB shared | fit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, group in itertools.groupby(sorted(rows, key=key), key=key):
        first = next((row for row in group if row["survives"]), None)
        if first is not None:
            lines.append(
                f"| {first['kernel']} | {first['arch']} | {first['dtype']} | {first['width']} "
                f"| {first['m']} x {first['j']} | {first['warps']} | {first['stages']} | {first['registers']} "
                f"| {first['spilled']} | {first['shared'] / 1024:.0f} | {first['resident']} |"
            )
    return "\n".join(lines)


def between_marks(text: str, table: str) -> str:
    """Replace what stands between the marks of the page."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}"


def write(rows: Sequence[Row]) -> None:
    """Write the table for machines, one row a line, and the one for people."""
    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=key))
    (KERNELS / "tiles.json").write_text(f'{{"triton": "{version("triton")}", "rows": [\n{lines}\n]}}\n')
    page = KERNELS / "README.md"
    page.write_text(between_marks(page.read_text(), markdown(rows)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--archs", nargs="+", choices=tuple(DEVICES), default=tuple(DEVICES))
    parser.add_argument("--dtypes", nargs="+", default=())
    parser.add_argument("--widths", nargs="+", type=int, default=())
    parser.add_argument("--enough", type=int, help="stop a group after so many survivors")
    options = parser.parse_args(arguments)
    if not has_triton():
        print("the sweep compiles with Triton: pip install 'ultraflash[test]'", file=sys.stderr)
        return 2
    rows: list[Row] = json.loads((KERNELS / "tiles.json").read_text())["rows"]
    for group in groups(options.kernels, options.archs, options.dtypes, options.widths):
        made = list(sweep(*group, candidates=VARIANTS[group[0]].tiles, enough=options.enough))
        kernel, arch, dtype, width = group
        kept = sum(row["survives"] for row in made)
        print(f"{kernel} {arch} {dtype} {width}: {kept} of {len(made)} fit without spilling", flush=True)
        rows = [row for row in rows if (row["kernel"], row["arch"], row["dtype"], row["width"]) != group]
        rows.extend(made)
        write(rows)  # after each group, so that a run that is broken off has not been for nothing
    return 0


if __name__ == "__main__":
    sys.exit(main())
