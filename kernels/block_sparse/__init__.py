"""Attention in which each block of queries sees a chosen few blocks of keys.

Tokens are regrouped with `BlockGrid`, the blocks to look at are chosen by `select_blocks`, and
`block_sparse_attention` attends. Backends:

- ``reference``: dense attention under a mask, to test against;
- ``gather``: PyTorch on the selected blocks only, any device.
"""

from __future__ import annotations

import functools
import logging
from typing import Protocol

import torch
from torch import Tensor

from . import gather, reference
from .layout import BlockGrid
from .selection import BlockSelection, SelectionRule, allowed_pairs, select_blocks, selection_mask

__all__ = [
    "BackendUnavailable",
    "BlockGrid",
    "BlockSelection",
    "SelectionRule",
    "allowed_pairs",
    "block_sparse_attention",
    "select_blocks",
    "selection_mask",
]

_log = logging.getLogger(__name__)


class BackendUnavailable(ValueError):
    """A backend was asked for by name that does not exist here."""


class _Attend(Protocol):
    def __call__(
        self, q_BQTND: Tensor, k_BKTND: Tensor, v_BKTND: Tensor, selection: BlockSelection, /
    ) -> Tensor: ...


_BACKENDS: dict[str, _Attend] = {"gather": gather.attend, "reference": reference.attend}


def block_sparse_attention(
    q_BQTND: Tensor,
    k_BKTND: Tensor,
    v_BKTND: Tensor,
    selection: BlockSelection,
    *,
    cached_k_BCTND: Tensor | None = None,
    cached_v_BCTND: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where a query block sees the tokens of its selected key blocks.

    Args:
        q_BQTND: queries in block layout, (B, query blocks, block tokens, N, D).
        k_BKTND: keys of the new blocks, (B, key blocks, block tokens, N, D), dtype and device of the queries.
        v_BKTND: values, same shape as the keys.
        selection: lists over cached blocks, then new blocks; see `select_blocks`.
        cached_k_BCTND: keys of earlier blocks, or None. Kept apart from `k_BKTND` so that a backend that can
            read blocks in place needs no copy.
        cached_v_BCTND: values of earlier blocks, given with `cached_k_BCTND`.
        backend: "auto", or the name of one of the backends.

    Returns:
        Same shape and dtype as the queries; zeros for a query block that selects nothing. Differentiable in
        queries, keys and values.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: shapes do not fit each other or the selection.
    """
    name = _auto_backend(q_BQTND.device.type) if backend == "auto" else backend
    if name not in _BACKENDS:
        raise BackendUnavailable(
            f"no block-sparse backend {name!r} here; there are {', '.join(sorted(_BACKENDS))}"
        )
    if (cached_k_BCTND is None) != (cached_v_BCTND is None):
        raise ValueError("cached keys and cached values must be given together")
    if cached_k_BCTND is not None and cached_v_BCTND is not None:
        k_BKTND = torch.cat([cached_k_BCTND, k_BKTND], dim=1)
        v_BKTND = torch.cat([cached_v_BCTND, v_BKTND], dim=1)
    _check_shapes(q_BQTND, k_BKTND, v_BKTND, selection)
    return _BACKENDS[name](q_BQTND, k_BKTND, v_BKTND, selection)


@functools.cache
def _auto_backend(device_type: str) -> str:
    _log.info("block-sparse attention on %s uses backend gather", device_type)
    return "gather"


def _check_shapes(q_BQTND: Tensor, k_BKTND: Tensor, v_BKTND: Tensor, selection: BlockSelection) -> None:
    batch, query_blocks, tokens, heads, size = q_BQTND.shape
    expected_k = (batch, selection.key_blocks, tokens, heads, size)
    if tuple(k_BKTND.shape) != expected_k or k_BKTND.shape != v_BKTND.shape:
        raise ValueError(
            f"expected keys and values {expected_k}, got {tuple(k_BKTND.shape)} and {tuple(v_BKTND.shape)}"
        )
    expected_q = (selection.batch, selection.heads, selection.query_blocks)
    if (batch, heads, query_blocks) != expected_q:
        raise ValueError(
            f"expected (batch, heads, query blocks) {expected_q}, got {(batch, heads, query_blocks)}"
        )
