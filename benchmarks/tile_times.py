"""Attention on a GPU tile by tile, those that the table of tiles leaves out included.

    python benchmarks/tile_times.py --json benchmarks/results/gpu-tiles.json

`kernels.py --tune` times what fits every version of Triton that the table names; this is for finding what the table
should have. Block-sparse attention is that of 1K at full size, a call of two latent frames with the example rule of
`attention_case.full_case`; dense attention that of the base's window. Both are checked before they are timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attention_case import WrongNumbers, check, draw, full_case
from kernel_calls import BASE_WINDOW, products, same
from kernel_tuning import runs_of
from provenance import provenance
from result_table import markdown_table
from torch import Tensor

from ultraflash.kernels.attention import dense_attention
from ultraflash.kernels.attention import forward as dense
from ultraflash.kernels.tiles import Tiles

SPARSE = tuple(
    Tiles(m=m, j=j, warps=warps, stages=stages)
    for m, j, warps, stages in (
        (128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 4, 3), (128, 32, 8, 4), (128, 64, 8, 2), (64, 64, 4, 2),
        (64, 64, 4, 3), (128, 64, 8, 3), (64, 128, 4, 2),
    )
)  # fmt: skip
DENSE = tuple(Tiles(m=128, j=j, warps=8, stages=stages) for j, stages in ((64, 3), (128, 2), (64, 2)))
Timed = tuple[str, str, Callable[[], Tensor], float]
"""What is attended to, tiles or backend, the call, and the operations of its products."""


def shape(tiles: Tiles) -> str:
    """Tiles as the table shows them."""
    return f"{tiles.m} x {tiles.j}, {tiles.warps} warps, {tiles.stages} stages"


def sparse_calls(device: torch.device) -> Iterator[Timed]:
    """Block-sparse attention with every tile. Raises WrongNumbers."""
    case = full_case(frames=2, heads=BASE_WINDOW["heads"])
    tensors = draw(case, torch.bfloat16, device)
    attend = runs_of(tensors, interpret=False)["attend_forward"]
    for tiles in SPARSE:
        check(f"block-sparse, {shape(tiles)}", attend(tiles), tensors, 5e-2)
        yield "block-sparse", shape(tiles), partial(attend, tiles), products(case, tensors.pairs)


def dense_calls(device: torch.device) -> Iterator[Timed]:
    """Dense attention by PyTorch, by cuDNN, and by our kernel with every tile. Raises WrongNumbers."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    queries, keys, heads, size = (BASE_WINDOW[name] for name in ("queries", "keys", "heads", "size"))
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(1, tokens, heads, size, device=device, generator=generator).bfloat16()
        for tokens in (queries, keys, keys)
    )

    def by_cudnn() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return dense_attention(q, k, v, backend="sdpa")

    calls: dict[str, Callable[[], Tensor]] = {
        "SDPA": lambda: dense_attention(q, k, v, backend="sdpa"),
        "SDPA, cuDNN alone": by_cudnn,
    }
    for tiles in DENSE:
        calls[shape(tiles)] = lambda tiles=tiles: dense.attend(q, k, v, interpret=False, tiles=tiles)[0]
    wanted = dense_attention(q.float(), k.float(), v.float(), backend="sdpa")
    for name, call in calls.items():
        same(f"window, {name}", call(), wanted, 5e-2)
        yield "window", name, call, 4.0 * queries * keys * heads * size


def main(argv: list[str] | None = None) -> int:
    """Time everything and print the table; 1 when something computes what it should not, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("nothing was timed: there is no GPU that PyTorch can use", file=sys.stderr)
        return 2
    from triton.testing import do_bench

    device, rows = torch.device("cuda"), list[dict[str, Any]]()
    try:
        for calls in (sparse_calls(device), dense_calls(device)):
            for attention, by, call, operations in calls:
                ms = float(do_bench(call, return_mode="median"))
                rows.append({"attention": attention, "by": by, "ms": ms, "tflops": operations / ms / 1e9})
    except WrongNumbers as error:
        print(f"not timed: {error}", file=sys.stderr)
        return 1
    head = ("attention", "by", "ms", "TFLOP/s")
    lines = [(row["attention"], row["by"], f"{row['ms']:.3f}", f"{row['tflops']:.0f}") for row in rows]
    print(markdown_table(head, lines))
    if args.json:
        report = {"benchmark": "tile_times", **provenance(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
