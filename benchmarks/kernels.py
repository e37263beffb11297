"""The Triton kernels on a GPU, against what else computes the same there.

    python benchmarks/kernels.py                        # the table: mini, and 1K of the full-size network
    python benchmarks/kernels.py --json kernels.json
    python benchmarks/kernels.py --tune                 # first time the tiles that fit, and remember the best

Beside ours are PyTorch's own (SDPA, and flex_attention compiled), and flash_attn, xformers and the CUDA extension
block_sparse_attn where they are installed. Everything is compared first; what is wrong is not timed. Dense rows
attend to everything: what being sparse saves. Bytes are those that must be moved at least once, so that GB/s is a lower
bound of what the memory did.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attention_case import Case, WrongNumbers, draw, full_case, mini_cases
from kernel_calls import BASE_WINDOW, Timed, choices, dense, gradients, small, sparse, window
from kernel_tuning import tune_attention
from provenance import installed, provenance

from ultraflash.kernels.backends import has_triton

Clock = Callable[[Callable[[], Any]], float]
"""Milliseconds of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What a GPU can do at most, by its data sheet: dense 16-bit TFLOP/s and GB/s of its memory."""

    tflops: float
    gigabytes: float


PEAKS = {
    "A100": Peak(tflops=312, gigabytes=2039),
    "H100": Peak(tflops=989, gigabytes=3350),
    "H200": Peak(tflops=989, gigabytes=4800),
    "B200": Peak(tflops=2250, gigabytes=8000),
    "L40S": Peak(tflops=362, gigabytes=864),
    "RTX 4090": Peak(tflops=165, gigabytes=1008),
    "RTX 5090": Peak(tflops=210, gigabytes=1792),
}
"""By a part of the name that PyTorch has for the GPU."""


def row(case: str, timed: Timed, milliseconds: float, peak: Peak | None) -> dict[str, Any]:
    """One row of the table."""
    tflops, gigabytes = timed.operations / milliseconds / 1e9, timed.bytes / milliseconds / 1e6
    return {
        "case": case,
        "what": timed.name,
        "ms": milliseconds,
        "megabytes": timed.bytes / 1e6,
        "tflops": tflops,
        "gigabytes_per_s": gigabytes,
        "percent_of_peak": None
        if peak is None
        else 100 * max(tflops / peak.tflops, gigabytes / peak.gigabytes),
    }


@torch.no_grad()
def of_case(
    case: Case, device: torch.device, dtype: torch.dtype, *, ours: str = "triton", others: bool = True
) -> Iterator[Timed]:
    """What is timed at one size of super-resolution.

    Raises:
        WrongNumbers: a result is not what it should be.
    """
    tensors = draw(case, dtype, device)
    yield from sparse(case, tensors, ours=ours, others=others)
    yield from gradients(case, tensors, ours=ours)
    yield from choices(case, tensors, ours=ours)
    yield from dense(tensors, case)


@torch.no_grad()
def of_base(device: torch.device, dtype: torch.dtype) -> Iterator[Timed]:
    """What is timed of the full-size base: attention over its window, and its small operators."""
    yield from window(**BASE_WINDOW, dtype=dtype, device=device, ours="triton")
    tokens, heads = BASE_WINDOW["queries"], BASE_WINDOW["heads"]
    width = heads * BASE_WINDOW["size"]
    yield from small(tokens=tokens, width=width, heads=heads, dtype=dtype, device=device, ours="triton")


def measure(case: str, found: Iterator[Timed], clock: Clock, peak: Peak | None) -> Iterator[dict[str, Any]]:
    """Rows of the table; each thing is timed before the next one is made."""
    for timed in found:
        yield row(case, timed, clock(timed.call), peak)


def tune_largest_first(cases: Sequence[Case], device: torch.device, clock: Clock) -> None:
    """Choose tiles at all sizes, which are given smallest first.

    Sizes of one head size share their tiles, and what is remembered is not timed again: the largest decides, where the
    time goes.

    Raises:
        WrongNumbers: attention with some tiles is not what it should be.
    """
    for case in reversed(cases):
        tune_attention(case, device, clock)


def print_row(line: Mapping[str, Any]) -> None:
    """A row of Markdown on standard output, at once: who stops the script early has what was timed so far."""
    percent = "" if line["percent_of_peak"] is None else f"{line['percent_of_peak']:.0f}"
    print(
        f"| {line['case']} | {line['what']} | {line['ms']:.3f} | {line['megabytes']:.1f} | {line['tflops']:.1f} "
        f"| {line['gigabytes_per_s']:.0f} | {percent} |",
        flush=True,
    )


def gpu() -> Mapping[str, Any]:
    """Name and driver of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    driver = Path("/proc/driver/nvidia/version")
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver.read_text().splitlines()[0] if driver.is_file() else None,
        "cuda": torch.version.cuda or torch.version.hip,
        "triton": installed("triton"),
        "flash_attn": installed("flash_attn"),
        "xformers": installed("xformers"),
        "block_sparse_attn": installed("block_sparse_attn"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tune", action="store_true", help="first choose the fastest tiles, and remember them"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() or not has_triton():
        missing = "no GPU that PyTorch can use" if has_triton() else "no Triton"
        print(
            f"nothing was timed: there is {missing} here, and these kernels run on nothing else",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda")
    about = gpu()
    peak = next((peak for part, peak in PEAKS.items() if part in about["name"]), None)
    from triton.testing import do_bench

    def clock(call: Callable[[], Any]) -> float:
        return float(do_bench(call, return_mode="median"))

    rows: list[dict[str, Any]] = []
    print(f"{about['name']}, {about['driver']}\n")
    try:
        cases = (*mini_cases(), full_case(frames=6, heads=12))
        if options.tune:
            tune_largest_first(cases, device, clock)
        print("| at | what | ms | MB | TFLOP/s | GB/s | % of peak |\n|---|---|---|---|---|---|---|")
        # The full size first, so that a run that is stopped early has it.
        found = [("full base", of_base(device, torch.bfloat16))]
        found += [(case.name, of_case(case, device, torch.bfloat16)) for case in reversed(cases)]
        for name, calls in found:
            for line in measure(name, calls, clock, peak):
                rows.append(line)
                print_row(line)
    except WrongNumbers as wrong:
        print(f"not timed: {wrong}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps({**provenance(), "gpu": about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
