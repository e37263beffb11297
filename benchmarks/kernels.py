"""The Triton kernels on a GPU, against what else computes attention there.

    python benchmarks/kernels.py                        # the table: mini, and 1K of the full-size network
    python benchmarks/kernels.py --json kernels.json
    python benchmarks/kernels.py --tune                 # first time the tiles that fit, and remember the best

Block-sparse rows compute the same thing and are compared with float32 attention first; what is wrong is not timed.
Dense rows attend to everything: what being sparse saves. Bytes are those that must be moved at least once, so that
GB/s is a lower bound of what the memory did.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from attention_case import Case, Tensors, WrongNumbers, check, draw, full_case, mini_cases
from provenance import installed, provenance
from torch import Tensor

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import block_sparse_attention, forward
from ultraflash.kernels.block_sparse.past import PastBlocks
from ultraflash.kernels.tiles import architecture, survivors
from ultraflash.kernels.tuning import tune, tuning_name

Call = Callable[[], Tensor]


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


def sparse_calls(tensors: Tensors) -> dict[str, Call]:
    """Everything here that attends to the selected blocks alone."""

    def by(backend: str) -> Tensor:
        return block_sparse_attention(
            tensors.q_BQTND,
            tensors.k_BQTND,
            tensors.v_BQTND,
            tensors.selection,
            cached_k_BCTND=tensors.past_k_BCTND,
            cached_v_BCTND=tensors.past_v_BCTND,
            backend=backend,
        )

    return {
        "block-sparse, Triton": lambda: by("triton"),
        "block-sparse, gather": lambda: by("gather"),
        "block-sparse, flex_attention": flex_call(tensors),
    }


def flex_call(tensors: Tensors) -> Call:
    """PyTorch's flex_attention over the same lists, compiled. Cache and new keys are joined beforehand."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    mask_BNQK = tensors.selection.to_mask()
    tokens = tensors.q_BQTND.shape[2]
    counts = mask_BNQK.sum(dim=-1, dtype=torch.int32)
    chosen_first = mask_BNQK.int().argsort(dim=-1, descending=True, stable=True).int()
    blocks = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), chosen_first, counts, chosen_first, BLOCK_SIZE=(tokens, tokens)
    )
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (tensors.q_BQTND, *tensors.all_keys()))
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, block_mask=blocks).transpose(1, 2).reshape(tensors.q_BQTND.shape)


def dense_calls(tensors: Tensors) -> dict[str, Call]:
    """Attention to everything, cache and new keys joined beforehand."""
    q, k, v = (x.flatten(1, 2) for x in (tensors.q_BQTND, *tensors.all_keys()))
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    calls: dict[str, Call] = {"dense, SDPA": lambda: F.scaled_dot_product_attention(*heads_first)}
    if installed("xformers"):
        from xformers.ops import memory_efficient_attention

        calls["dense, xformers"] = lambda: memory_efficient_attention(q, k, v)
    return calls


def row(
    name: str, milliseconds: float, case: Case, tensors: Tensors, *, pairs: int, peak: Peak | None
) -> dict[str, Any]:
    """One row of the table: 2 products of 2 operations a pair of tokens and number of a head."""
    tokens = case.grid.block_tokens
    operations = 4 * pairs * tokens * tokens * case.size
    read = (tensors.q_BQTND, tensors.q_BQTND, *tensors.all_keys())  # the result is as large as the queries
    moved = sum(x.numel() * x.element_size() for x in read)
    tflops, gigabytes = operations / milliseconds / 1e9, moved / milliseconds / 1e6
    return {
        "case": case.name,
        "what": name,
        "ms": milliseconds,
        "tflops": tflops,
        "gigabytes_per_s": gigabytes,
        "percent_of_peak": None
        if peak is None
        else 100 * max(tflops / peak.tflops, gigabytes / peak.gigabytes),
    }


@torch.inference_mode()
def measure(case: Case, device: torch.device, peak: Peak | None) -> list[dict[str, Any]]:
    """Rows of one case.

    Raises:
        WrongNumbers: a block-sparse result is not what it should be.
    """
    from triton.testing import do_bench

    tensors = draw(case, torch.bfloat16, device)
    pairs, all_pairs = tensors.pairs, case.heads * case.grid.n_blocks * case.key_blocks
    sparse = sparse_calls(tensors)
    for name, call in sparse.items():
        check(f"{name} at {case.name}", call(), tensors, 5e-2)
    counted = [(name, call, pairs) for name, call in sparse.items()]
    counted += [(name, call, all_pairs) for name, call in dense_calls(tensors).items()]
    return [
        row(name, do_bench(call, return_mode="median"), case, tensors, pairs=number, peak=peak)
        for name, call, number in counted
    ]


@torch.inference_mode()
def tune_forward(case: Case, device: torch.device) -> None:
    """Time the tiles of the forward kernel that fit and remember the fastest for this GPU."""
    from triton.testing import do_bench

    tensors = draw(case, torch.bfloat16, device)
    past = PastBlocks(k_BRTND=tensors.past_k_BCTND, v_BRTND=tensors.past_v_BCTND)

    def milliseconds(tiles: Any) -> float:
        def call() -> Tensor:
            return forward.attend(
                tensors.q_BQTND, tensors.k_BQTND, tensors.v_BQTND, tensors.selection, past,
                interpret=False, tiles=tiles,
            )[0]  # fmt: skip

        check(f"{tiles} at {case.name}", call(), tensors, 5e-2)
        return float(do_bench(call, return_mode="median"))

    name = tuning_name("attend_forward", torch.cuda.get_device_name(device), "bfloat16", case.size)
    fitting = survivors("attend_forward", architecture(device), "bfloat16", case.size)
    print(f"{name}: {tune(fitting, milliseconds, name=name)}")


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
        "xformers": installed("xformers"),
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
    rows: list[dict[str, Any]] = []
    print(f"{about['name']}, {about['driver']}\n")
    try:
        for case in (*mini_cases(), full_case(frames=6, heads=12)):
            if options.tune:
                tune_forward(case, device)
            rows.extend(measure(case, device, peak))
    except WrongNumbers as wrong:
        print(f"not timed: {wrong}", file=sys.stderr)
        return 1
    print("| attention at | what | ms | TFLOP/s | GB/s | % of peak |\n|---|---|---|---|---|---|")
    for line in rows:
        percent = "" if line["percent_of_peak"] is None else f"{line['percent_of_peak']:.0f}"
        print(
            f"| {line['case']} | {line['what']} | {line['ms']:.3f} | {line['tflops']:.1f} "
            f"| {line['gigabytes_per_s']:.0f} | {percent} |"
        )
    if options.json:
        options.json.write_text(json.dumps({**provenance(), "gpu": about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
