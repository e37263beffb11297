"""Attention in which each block of queries sees a chosen few blocks of keys.

Tokens are regrouped with `BlockGrid`, the blocks to look at are chosen by `select_blocks`, and
`block_sparse_attention` attends. Backends:

- ``reference``: dense attention under a mask, to test against;
- ``gather``: PyTorch on the selected blocks only, any device;
- ``triton``: a kernel that reads cached and new blocks where they lie, on a GPU;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU;
- ``fp8``: a kernel over queries, keys and values rounded to 8-bit floating point, on NVIDIA GPUs from compute
  capability 8.9 on. It has no gradient, loses accuracy, and is used where it is asked for alone;
- ``fp8-interpreter``: to ``fp8`` what ``interpreter`` is to ``triton``.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable, check_backend, gpu_problem

from . import autograd, device_selection, fp8, gather, reference
from .layout import BlockGrid
from .past import PastBlocks, RingSpan, span_of, widened
from .selection import (
    BlockSelection,
    SelectionRule,
    allowed_pairs,
    check_blocks,
    selection_mask,
)

__all__ = [
    "SELECTION_BACKEND",
    "BackendUnavailable",
    "BlockGrid",
    "BlockSelection",
    "PastBlocks",
    "RingSpan",
    "SelectionRule",
    "allowed_pairs",
    "block_sparse_attention",
    "select_blocks",
    "selection_mask",
]

BACKENDS = ("gather", "reference", "triton", "interpreter", "fp8", "fp8-interpreter")
SELECTION_BACKENDS = ("reference", "triton", "interpreter")
SELECTION_BACKEND = {"gather": "reference", "fp8": "triton", "fp8-interpreter": "interpreter"}
"""Which of `select_blocks` goes with a backend of `block_sparse_attention`, where it has another name."""

_log = logging.getLogger(__name__)


def block_sparse_attention(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    selection: BlockSelection,
    *,
    cached_k_BCTND: Tensor | None = None,
    cached_v_BCTND: Tensor | None = None,
    cached_k_scale_BCTN: Tensor | None = None,
    cached_v_scale_BCTN: Tensor | None = None,
    cached_span: RingSpan | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where a query block sees the tokens of its selected key blocks.

    Args:
        q_BQTND: queries in block layout, (B, query blocks, block tokens, N, D).
        k_BKTND: keys of the new blocks, (B, key blocks, block tokens, N, D), dtype and device of the queries.
        v_BKTND: values, same shape as the keys.
        selection: lists over cached blocks, then new blocks; see `select_blocks`.
        cached_k_BCTND: keys of earlier blocks, or None. Kept apart from `k_BKTND` so that a backend that can
            read blocks in place needs no copy. Any floating dtype, or int8 given with scales.
        cached_v_BCTND: values of earlier blocks, given with `cached_k_BCTND`.
        cached_k_scale_BCTN: float32 scales of int8 keys, see `quantization.quantize`. Not differentiable.
        cached_v_scale_BCTN: float32 scales of int8 values.
        cached_span: which of the cached blocks count, where they are a ring: read where they lie by kernels. All of
            them, oldest first, if not given.
        backend: "auto", or the name of one of the backends.

    Returns:
        Same shape and dtype as the queries; zeros for a query block that selects nothing. Differentiable in
        queries, keys and values.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: shapes do not fit each other or the selection.
    """
    name = _auto_backend(q_BQTND.device) if backend == "auto" else backend
    check_backend("block-sparse", name, BACKENDS, q_BQTND.device.type)
    past = None
    if cached_k_BCTND is not None and cached_v_BCTND is not None:
        past = PastBlocks(
            k_BRTND=cached_k_BCTND,
            v_BRTND=cached_v_BCTND,
            k_scale_BRTN=cached_k_scale_BCTN,
            v_scale_BRTN=cached_v_scale_BCTN,
            span=cached_span,
        )
    elif cached_k_BCTND is not None or cached_v_BCTND is not None:
        raise ValueError("cached keys and cached values must be given together")
    _check_shapes(q_BQTND, k_BKTND, v_BKTND, past, selection)
    if name in ("triton", "interpreter"):
        return autograd.attend(q_BQTND, k_BKTND, v_BKTND, selection, past, interpret=name == "interpreter")
    if name in ("fp8", "fp8-interpreter"):
        interpret = name == "fp8-interpreter"
        return fp8.attend(q_BQTND, k_BKTND, v_BKTND, selection, past, interpret=interpret)[0]
    if name == "gather":
        return gather.attend(q_BQTND, k_BKTND, v_BKTND, selection, past)
    if past is not None:
        cached_k, cached_v = past.dense(q_BQTND.dtype)
        k_BKTND, v_BKTND = torch.cat([cached_k, k_BKTND], dim=1), torch.cat([cached_v, v_BKTND], dim=1)
    return reference.attend(q_BQTND, k_BKTND, v_BKTND, selection)


def select_blocks(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    grid: BlockGrid,
    rule: SelectionRule,
    *,
    cached_k_BCTND: Tensor | None = None,
    cached_k_scale_BCTN: Tensor | None = None,
    cached_span: RingSpan | None = None,
    backend: str = "auto",
) -> BlockSelection:
    """The choice of `selection_mask`, as the lists that `block_sparse_attention` takes.

    Args:
        q_BQTND, k_BKTND, grid, rule, cached_k_BCTND: as in `selection_mask`. Cached keys may be int8 with scales.
        cached_k_scale_BCTN: float32 scales of int8 cached keys.
        cached_span: as in `block_sparse_attention`.
        backend: "auto"; "reference", which waits for the GPU, where there is one, to know how long the lists are;
            "triton", which does not; or "interpreter", to test the latter without a GPU.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: blocks do not match the grid.
    """
    if backend == "auto":
        chosen = _auto_backend(q_BQTND.device)
        backend = SELECTION_BACKEND.get(chosen, chosen)
    check_backend("block selection", backend, SELECTION_BACKENDS, q_BQTND.device.type)
    if backend == "reference":
        if cached_k_BCTND is not None and cached_k_scale_BCTN is not None:
            runs = span_of(cached_k_BCTND, cached_span).runs(cached_k_BCTND.shape[1])
            wide = [widened(cached_k_BCTND, cached_k_scale_BCTN, run, q_BQTND.dtype) for run in runs]
            cached_k_BCTND, cached_span = torch.cat(wide, dim=1), None
        mask_BNQK = selection_mask(
            q_BQTND, k_BKTND, grid, rule, cached_k_BCTND=cached_k_BCTND, cached_span=cached_span
        )
        return BlockSelection.from_mask(mask_BNQK)
    span = span_of(cached_k_BCTND, cached_span)
    if cached_k_BCTND is not None:
        span.runs(cached_k_BCTND.shape[1])
    check_blocks(q_BQTND, k_BKTND, span.count, grid)
    with torch.no_grad():
        return device_selection.select(
            q_BQTND,
            k_BKTND,
            grid,
            rule,
            cached_k_BCTND=cached_k_BCTND,
            cached_k_scale_BCTN=cached_k_scale_BCTN,
            span=span,
            interpret=backend == "interpreter",
        )


@functools.cache
def _auto_backend(device: torch.device) -> str:
    problem = gpu_problem(device, _probe)
    name = "gather" if problem else "triton"
    why = f", since {problem}" if problem and device.type == "cuda" else ""
    _log.info("block-sparse attention on %s uses backend %s%s", device, name, why)
    return name


def _probe(device: torch.device) -> bool:
    """Whether the kernel computes a single pair of blocks as the reference does."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, 1, 64, 1, 64, device=device, generator=generator).half()
    selection = BlockSelection.from_mask(torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device))
    made = autograd.attend(x, x, x, selection, None, interpret=False)
    return torch.allclose(made, reference.attend(x, x, x, selection), atol=1e-2)


def _check_shapes(
    q_BQTND: Tensor, k_BKTND: Tensor, v_BKTND: Tensor, past: PastBlocks | None, selection: BlockSelection
) -> None:
    batch, query_blocks, tokens, heads, size = q_BQTND.shape
    cached = 0 if past is None else past.counted.count
    expected_k = (batch, selection.key_blocks - cached, tokens, heads, size)
    if tuple(k_BKTND.shape) != expected_k or k_BKTND.shape != v_BKTND.shape:
        raise ValueError(
            f"expected keys and values {expected_k}, got {tuple(k_BKTND.shape)} and {tuple(v_BKTND.shape)}"
        )
    if past is not None:
        past.check(batch, tokens, heads, size)
    expected_q = (selection.batch, selection.heads, selection.query_blocks)
    if (batch, heads, query_blocks) != expected_q:
        raise ValueError(
            f"expected (batch, heads, query blocks) {expected_q}, got {(batch, heads, query_blocks)}"
        )
