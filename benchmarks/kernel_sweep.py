"""Compile every candidate tile of every kernel for every device, without a GPU, and write the table of those that fit.

``python benchmarks/kernel_sweep.py`` rewrites ``kernels/tiles.json`` and the table in ``kernels/README.md``. Options
narrow it down; rows that they leave out stay as they are. A compilation takes about a second.

``--more`` keeps what the table has and compiles what it lacks, such as with a larger ``--enough``. It is for tables of
kernels that have not changed since.

``--beside`` is for another version of Triton: candidates are compiled in the order of the table, until one survives in
each group, and a row is left with the worse of what either version gave. So it holds for all versions that it names.
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
from ultraflash.kernels.compilation import Usage, compile_ahead
from ultraflash.kernels.devices import DEVICES
from ultraflash.kernels.tiles import Tiles

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
MARKS = ("<!-- tiles: written by benchmarks/kernel_sweep.py -->", "<!-- end of tiles -->")
Row = dict[str, Any]


def compiled(kernel: str, arch: str, dtype: str, width: int, tiles: Tiles) -> Usage:
    """What a kernel takes in one size on one device."""
    variant = VARIANTS[kernel]
    constants = variant.constants(arch=arch, dtype=dtype, width=width, tiles=tiles)
    return compile_ahead(
        variant.kernel(), constants, arch=arch, dtype=dtype, warps=tiles.warps, stages=tiles.stages
    )


def tiles_of(row: Row) -> Tiles:
    """The tiles that a row is about."""
    return Tiles(m=row["m"], j=row["j"], warps=row["warps"], stages=row["stages"])


def sweep(
    kernel: str,
    arch: str,
    dtype: str,
    width: int,
    *,
    candidates: Sequence[Tiles],
    enough: int | None,
    known: Sequence[Row] = (),
) -> Iterator[Row]:
    """Rows of the table for one kernel on one device, until `enough` candidates survived, or all of them.

    Candidates that `known` has rows of are not compiled again.
    """
    rows = {tiles_of(row): row for row in known}
    survivors = 0
    for tiles in candidates:
        row = rows.get(tiles)
        if row is None:
            usage = compiled(kernel, arch, dtype, width, tiles)
            row = {
                "kernel": kernel,
                "arch": arch,
                "dtype": dtype,
                "width": width,
                **asdict(tiles),
                **asdict(usage),
                "survives": usage.survives,
                "triton": version("triton"),
            }
        yield row
        survivors += row["survives"]
        if survivors == enough:
            return


def worse(row: Row, usage: Usage) -> Row:
    """A row of the table with what a kernel takes at most: by the row, or by another version of Triton."""
    most = {name: max(row[name], getattr(usage, name)) for name in ("registers", "spilled", "shared")}
    resident = min(row["resident"], usage.resident)
    versions = ", ".join(sorted({*row["triton"].split(", "), version("triton")}))
    survives = resident > 0 and most["spilled"] == 0
    return {**row, **most, "resident": resident, "survives": survives, "triton": versions}


def beside(rows: Sequence[Row]) -> list[Row]:
    """The rows of one group, checked with the Triton that is installed as far as to the first that survives."""
    checked: list[Row] = []
    for row in rows:
        in_use = row["survives"] and not any(before["survives"] for before in checked)
        if in_use and version("triton") not in row["triton"].split(", "):
            found = compiled(row["kernel"], row["arch"], row["dtype"], row["width"], tiles_of(row))
            row = worse(row, found)
        checked.append(row)
    return checked


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
    (KERNELS / "tiles.json").write_text(f'{{"rows": [\n{lines}\n]}}\n')
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
    parser.add_argument(
        "--more", action="store_true", help="go on behind the rows there are, without them anew"
    )
    parser.add_argument("--beside", action="store_true", help="check the table with another Triton")
    options = parser.parse_args(arguments)
    if not has_triton():
        print("the sweep compiles with Triton: pip install 'ultraflash[test]'", file=sys.stderr)
        return 2
    rows: list[Row] = json.loads((KERNELS / "tiles.json").read_text())["rows"]
    for group in groups(options.kernels, options.archs, options.dtypes, options.widths):
        of_group = [row for row in rows if (row["kernel"], row["arch"], row["dtype"], row["width"]) == group]
        if options.beside:
            made = beside(of_group)
        else:
            known = of_group if options.more else ()
            kernel, arch, _, width = group
            candidates = VARIANTS[kernel].candidates(arch, width)
            made = list(sweep(*group, candidates=candidates, enough=options.enough, known=known))
        kept = sum(row["survives"] for row in made)
        print(f"{' '.join(map(str, group))}: {kept} of {len(made)} fit without spilling", flush=True)
        rows = [row for row in rows if row not in of_group]
        rows.extend(made)
        write(rows)  # after each group, so that a run that is broken off has not been for nothing
    return 0


if __name__ == "__main__":
    sys.exit(main())
