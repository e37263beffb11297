"""Times the tiles that fit, on the GPU at hand, and remembers the fastest of each kernel.

Candidates are what compiling ahead of time left over (`kernels/tiles.json`); what is remembered is not timed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attention_case import Case, Tensors, check, draw
from torch import Tensor

from ultraflash.kernels import tiles as table
from ultraflash.kernels.attention import forward as dense
from ultraflash.kernels.block_sparse import PastBlocks, RingSpan, backward, forward, fp8
from ultraflash.kernels.quantization import quantize
from ultraflash.kernels.tiles import Tiles, survivors
from ultraflash.kernels.tuning import tune, tuning_name

Run = Callable[[Tiles], Any]


def runs_of(tensors: Tensors, *, interpret: bool) -> dict[str, Run]:
    """A call of every attention kernel with tiles of one's choice, by the name that the table has for it."""
    q, k, v, selection = tensors.q_BQTND, tensors.k_BQTND, tensors.v_BQTND, tensors.selection
    keys, values = tensors.past_k_BCTND, tensors.past_v_BCTND
    span = RingSpan(first=0, count=keys.shape[1])  # as the cache of a stream has it
    past = PastBlocks(k_BRTND=keys, v_BRTND=values, span=span)
    straight = PastBlocks(k_BRTND=keys, v_BRTND=values)
    (narrow_k, k_scale), (narrow_v, v_scale) = quantize(keys), quantize(values)
    narrow = PastBlocks(
        k_BRTND=narrow_k, v_BRTND=narrow_v, k_scale_BRTN=k_scale, v_scale_BRTN=v_scale, span=span
    )
    flat = [x.flatten(1, 2) for x in (q, k, v)]
    (flat_k, flat_k_scale), (flat_v, flat_v_scale) = quantize(flat[1]), quantize(flat[2])
    scales = flat_k_scale, flat_v_scale
    out, lse = forward.attend(q, k, v, selection, past, interpret=interpret)
    incoming = backward.Incoming(q_BQTND=q, out_BQTND=out, lse_BNQT=lse, d_out_BQTND=out, selection=selection)
    first = keys.shape[1]

    def attend(of: PastBlocks) -> Run:
        return lambda tiles: forward.attend(q, k, v, selection, of, interpret=interpret, tiles=tiles)[0]

    return {
        "attend_forward": attend(past),
        "attend_forward_int8": attend(narrow),
        "attend_fp8": lambda tiles: fp8.attend(q, k, v, selection, past, interpret=interpret, tiles=tiles)[0],
        "attend_dense": lambda tiles: dense.attend(*flat, interpret=interpret, tiles=tiles)[0],
        "attend_dense_int8": lambda tiles: dense.attend(
            flat[0], flat_k, flat_v, scales, interpret=interpret, tiles=tiles
        )[0],
        "query_gradient": lambda tiles: backward.query_gradient(
            incoming, k, v, straight, interpret=interpret, tiles=tiles
        ),
        "key_gradient": lambda tiles: backward.key_gradient(
            incoming, k, v, first_block=first, interpret=interpret, tiles=tiles
        ),
    }


def tune_attention(case: Case, device: torch.device, clock: Callable[[Callable[[], Any]], float]) -> None:
    """Choose the tiles of every attention kernel for the GPU at hand, among those that survive for its architecture."""
    tensors = draw(case, torch.bfloat16, device)
    with torch.no_grad():
        chosen = tune_runs(
            runs_of(tensors, interpret=False),
            clock,
            arch=table.architecture(device),
            gpu=torch.cuda.get_device_name(device),
            width=case.size,
            check_out=lambda name, out: check(f"{name} at {case.name}", out, tensors, 5e-2),
        )
    for name, tiles in chosen.items():
        print(f"{name}: {tiles}")
    table.tiles_for.cache_clear()


def tune_runs(
    runs: Mapping[str, Run],
    clock: Callable[[Callable[[], Any]], float],
    *,
    arch: str,
    gpu: str,
    width: int,
    check_out: Callable[[str, Tensor], None],
) -> dict[str, Tiles]:
    """The fastest tiles by what they are for; kernels that nothing survives of are left out.

    Raises:
        WrongNumbers: by `check_out`, of block-sparse attention with some tiles.
    """
    chosen: dict[str, Tiles] = {}
    for kernel, run in runs.items():
        kind = "float8_e4m3fn" if kernel == "attend_fp8" else "bfloat16"
        candidates = survivors(kernel, arch, kind, width)
        if not candidates:
            continue
        name = tuning_name(kernel, gpu, kind, width)

        def milliseconds(tiles: Tiles, kernel: str = kernel, run: Run = run) -> float:
            out = run(tiles)
            if kernel in ("attend_forward", "attend_forward_int8"):
                check_out(f"{kernel} with {tiles}", out)
            return clock(lambda: run(tiles))

        chosen[name] = tune(candidates, milliseconds, name=name)
    return chosen
