"""Bytes that the small operators of a transformer block move, one PyTorch kernel after another and fused.

python benchmarks/small_operators.py --preset ultraflash-1k

Everything between the matrix products and attention: norms, rotation, modulation, gates and the change to block layout.
Unfused is what eager PyTorch reads and writes, tensor by tensor, as the reference is written; fused is what
`ultraflash.kernels` reads and writes. Counted from the preset, not measured; what is per frame or per channel is left
out, since it is less than a thousandth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from costs import sr_grid
from provenance import provenance

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.models.dit import DiTConfig
from ultraflash.models.preset import Preset, load_preset

STREAM = 4
"""Bytes of a number of the residual stream, which is float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What one small operator moves in one block of the transformer.

    Attributes:
        name: for the table.
        unfused: bytes, kernel by kernel.
        fused: bytes, in one pass.
    """

    name: str
    unfused: float
    fused: float

    @property
    def saved(self) -> float:
        return self.unfused - self.fused


def operators(dit: DiTConfig, *, tokens: int, width: int, grid: BlockGrid | None) -> list[Operator]:
    """The small operators of one block over ``tokens``, in numbers of ``width`` bytes; with a grid in block layout."""
    numbers = tokens * dit.dim
    table = tokens * dit.head_dim * STREAM  # cosines and sines
    norm = STREAM + STREAM  # read, written normalized
    rms = (width + STREAM) + norm + (STREAM + width)  # to float32, norm, back
    # To float32, one complex product, back.
    rotation = (width + STREAM) + 2 * STREAM + (STREAM + width)
    gated = (width + STREAM) + 3 * STREAM
    rows = [
        Operator(
            name="LayerNorm and modulation, before self-attention",
            unfused=numbers * (norm + norm + STREAM + width),
            fused=numbers * (STREAM + width),
        ),
        Operator(
            name="RMSNorm of queries and keys and their rotation",
            unfused=2 * (numbers * (rms + rotation) + 3 * table),
            fused=2 * (numbers * 2 * width + table),
        ),
        Operator(
            name="gated sum after self-attention, LayerNorm before cross-attention",
            unfused=numbers * (gated + norm + STREAM + width),
            fused=numbers * (width + 2 * STREAM + width),
        ),
        Operator(
            name="RMSNorm of the queries of cross-attention", unfused=numbers * rms, fused=numbers * 2 * width
        ),
        Operator(
            name="sum after cross-attention, LayerNorm and modulation before the MLP",
            unfused=numbers * (gated + norm + norm + STREAM + width),
            fused=numbers * (width + 2 * STREAM + width),
        ),
        Operator(
            name="gated sum after the MLP",
            unfused=numbers * gated,
            fused=numbers * (width + 2 * STREAM),
        ),
    ]
    return rows if grid is None else [*rows, *_layout(numbers, width=width, grid=grid)]


def _layout(numbers: int, *, width: int, grid: BlockGrid) -> list[Operator]:
    """Into block layout and back; the fused kernel of queries and keys writes block layout anyway."""
    padding = grid.n_blocks * grid.block_tokens / grid.tokens
    ragged = padding > 1
    to_blocks = numbers * width * ((1 + padding if ragged else 0) + 2 * padding)
    to_tokens = numbers * width * (2 * padding if not ragged else 2 * padding + 2)
    return [
        Operator(
            name="queries and keys into block layout",
            unfused=2 * to_blocks,
            fused=2 * numbers * width * (padding - 1),
        ),
        Operator(name="values into block layout", unfused=to_blocks, fused=numbers * width * (1 + padding)),
        Operator(name="attention out of block layout", unfused=to_tokens, fused=numbers * width * 2),
    ]


def parts(preset: Preset, *, width: int) -> dict[str, list[Operator]]:
    """Operators of one block of the base and of super-resolution at the largest size, one call of each."""
    base = preset.base
    rows, cols = base.dit.token_grid(base.rows, base.cols)
    tokens = base.block_frames * rows * cols
    found = {"base": operators(base.dit, tokens=tokens, width=width, grid=None)}
    if preset.sr is not None:
        size = max((size for size in preset.sizes if size.refine), key=lambda size: size.rows * size.factor)
        grid = sr_grid(preset.sr, size, preset.sr.call_frames or preset.group_frames)
        found[f"sr at {size.name}"] = operators(preset.sr.dit, tokens=grid.tokens, width=width, grid=grid)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="ultraflash-1k", help="name or TOML file")
    parser.add_argument("--width", type=int, choices=(2, 4), default=2, help="bytes of a number")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args(arguments)
    found = parts(load_preset(options.preset), width=options.width)
    for part, rows in found.items():
        print(f"\n{options.preset}, one block of {part}: megabytes (10^6), computed\n")
        print("| operator | unfused | fused | saved |\n|---|---|---|---|")
        whole = Operator(name="all", unfused=sum(r.unfused for r in rows), fused=sum(r.fused for r in rows))
        for row in (*rows, whole):
            print(f"| {row.name} | {row.unfused / 1e6:.0f} | {row.fused / 1e6:.0f} | {row.saved / 1e6:.0f} |")
    if options.json is not None:
        networks = {part: [asdict(row) for row in rows] for part, rows in found.items()}
        report = {
            "benchmark": "small_operators",
            "preset": options.preset,
            "width": options.width,
            **provenance(),
            "networks": networks,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
