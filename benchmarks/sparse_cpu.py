"""Block-sparse attention on a CPU against dense attention under the same mask, at sizes of super-resolution.

    python benchmarks/sparse_cpu.py                                # the sizes of mini
    python benchmarks/sparse_cpu.py --full                         # one head of the full-size network at 1K as well
    python benchmarks/sparse_cpu.py --json sparse_cpu.json

Both compute the same thing and are compared with float32 attention first; what is wrong is not timed. The choice of
blocks is not part of the time. Dense attention without a mask is timed as well: it computes something else, but nobody
has to be slower than that, which a mask makes PyTorch be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from attention_case import Case, Tensors, WrongNumbers, check, draw, full_case, mini_cases
from provenance import provenance
from torch import Tensor

from ultraflash.kernels.block_sparse import block_sparse_attention
from ultraflash.models.device import fastest_dtype

CLOCKS = {"wall": perf_counter, "cpu": process_time}


def gather(tensors: Tensors) -> Tensor:
    """The selected blocks only."""
    return block_sparse_attention(
        tensors.q_BQTND,
        tensors.k_BQTND,
        tensors.v_BQTND,
        tensors.selection,
        cached_k_BCTND=tensors.past_k_BCTND,
        cached_v_BCTND=tensors.past_v_BCTND,
        backend="gather",
    )


def dense(tensors: Tensors, mask_BNIJ: Tensor | None = None) -> Tensor:
    """All blocks, under a mask of tokens, which is made beforehand, or without one."""
    keys, values = tensors.all_keys()
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (tensors.q_BQTND, keys, values))
    out_BNID = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BNIJ)
    return out_BNID.transpose(1, 2).reshape(tensors.q_BQTND.shape)


def median_ms(
    calls: Mapping[str, Callable[[], Tensor]], *, seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Median times of calls in turn, so that whatever else the machine does falls on all of them alike: as many rounds
    as fit, three at least, after one that does not count.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + seconds * len(calls)
    rounds = 0
    while rounds < 3 or perf_counter() < end:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
        rounds += 1
    return {name: 1000 * statistics.median(some) for name, some in times.items()}


@torch.inference_mode()
def measure(
    case: Case, dtype: torch.dtype, *, seconds: float, clock: Callable[[], float] = perf_counter
) -> dict[str, Any]:
    """One row of the table.

    Raises:
        WrongNumbers: one of the two does not compute what it should.
    """
    tensors = draw(case, dtype, torch.device("cpu"))
    tokens = case.grid.block_tokens
    mask = tensors.selection.to_mask().repeat_interleave(tokens, 2).repeat_interleave(tokens, 3)
    calls: dict[str, Callable[[], Tensor]] = {
        "gather": lambda: gather(tensors),
        "masked": lambda: dense(tensors, mask),
    }
    for name, call in calls.items():
        check(f"{name} at {case.name}", call(), tensors, 1e-4 if dtype == torch.float32 else 5e-2)
    calls["dense"] = lambda: dense(tensors)
    milliseconds = median_ms(calls, seconds=seconds, clock=clock)
    return {
        "case": case.name,
        "dtype": str(dtype).removeprefix("torch."),
        "kept": tensors.pairs / (case.heads * case.grid.n_blocks * case.key_blocks),
        "gather_ms": milliseconds["gather"],
        "masked_ms": milliseconds["masked"],
        "dense_ms": milliseconds["dense"],
        "ratio": milliseconds["masked"] / milliseconds["gather"],
        "dense_ratio": milliseconds["dense"] / milliseconds["gather"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="one head at 1K of the full-size network; takes a minute"
    )
    parser.add_argument("--cases", nargs="+", help="only cases of these names, such as 'mini 1K'")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="the faster one here by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each of the three")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu is the time of all threads together, for a machine that others use too",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype) if options.dtype else fastest_dtype(torch.device("cpu"))
    cases = mini_cases() + ([full_case(frames=2, heads=1)] if options.full else [])
    print(
        "| attention at | dtype | pairs kept | masked SDPA ms | block-sparse ms | ratio | without a mask | ratio |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for case in cases:
        if options.cases and case.name not in options.cases:
            continue
        try:
            row = measure(case, dtype, seconds=options.seconds, clock=CLOCKS[options.clock])
        except WrongNumbers as wrong:
            print(f"not timed: {wrong}", file=sys.stderr)
            return 1
        rows.append(row)
        print(
            f"| {row['case']} | {row['dtype']} | {row['kept']:.1%} | {row['masked_ms']:.1f} "
            f"| {row['gather_ms']:.1f} | {row['ratio']:.2f} | {row['dense_ms']:.1f} | {row['dense_ratio']:.2f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(
            json.dumps({**provenance(), "clock": options.clock, "rows": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
