"""Dense attention over tokens in (B, L, N, D) layout.

Backends:

- ``sdpa``: PyTorch's own, or plain products where a CPU is to give a gradient. It reads a cache in place as well, so
  another one has to be measured faster before ``auto`` prefers it;
- ``flash``, ``xformers``: those of the packages of these names, on a GPU;
- ``chunked``: two plain matrix products per chunk of queries;
- ``triton``: our kernel on a GPU, the one that reads 8-bit keys and values without widening them in memory. It has no
  gradient;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU.

``auto`` is the first of ``sdpa``, ``flash``, ``xformers`` and ``chunked`` that a tiny call finds right, decided once
per device and logged.

Shapes: B batch, L query tokens, M key tokens, N heads, D head size.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable, check_backend
from ultraflash.kernels.quantization import dequantize

from . import chunked, forward, libraries, products

__all__ = ["AUTOMATIC", "BackendUnavailable", "backend_problem", "dense_attention"]

_log = logging.getLogger(__name__)


def _sdpa(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    if q_BLND.device.type == "cpu" and torch.is_grad_enabled() and q_BLND.requires_grad:
        return products.attend(q_BLND, k_BMND, v_BMND)
    out = F.scaled_dot_product_attention(
        q_BLND.transpose(1, 2), k_BMND.transpose(1, 2), v_BMND.transpose(1, 2)
    )
    return out.transpose(1, 2)


_DIFFERENTIABLE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "flash": libraries.flash,
    "xformers": libraries.xformers,
    "chunked": chunked.attend,
}
"""Those that ``auto`` chooses from, in order."""

AUTOMATIC = tuple(_DIFFERENTIABLE)

BACKENDS = (*_DIFFERENTIABLE, "triton", "interpreter")


def dense_attention(
    q_BLND: Tensor,
    k_BMND: Tensor,
    v_BMND: Tensor,
    *,
    k_scale_BMN: Tensor | None = None,
    v_scale_BMN: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of every query over every key, scaled by ``1/sqrt(D)``; returns (B, L, N, D).

    Args:
        q_BLND: queries.
        k_BMND, v_BMND: keys and values, in any floating dtype, or int8 given with scales. Views are read in place;
            backends but our kernel copy what has not the dtype of the queries.
        k_scale_BMN, v_scale_BMN: float32 scales of int8 keys and values, see `quantization.quantize`.
        backend: "auto", or the name of one of the backends.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: one of the scales without the other, or a gradient wanted of a backend that has none.
    """
    if (k_scale_BMN is None) != (v_scale_BMN is None):
        raise ValueError("scales of keys and of values must be given together")
    name = _auto_backend(q_BLND.device) if backend == "auto" else backend
    if name not in _DIFFERENTIABLE:
        return _by_kernel(q_BLND, k_BMND, v_BMND, k_scale_BMN, v_scale_BMN, name)
    if backend != "auto" and (problem := backend_problem(name, q_BLND.device)):
        raise BackendUnavailable(f"dense attention by {name!r} cannot run here: {problem}; choose 'sdpa'")
    if k_scale_BMN is not None and v_scale_BMN is not None:
        k_BMND = dequantize(k_BMND, k_scale_BMN, q_BLND.dtype)
        v_BMND = dequantize(v_BMND, v_scale_BMN, q_BLND.dtype)
    return _DIFFERENTIABLE[name](q_BLND, k_BMND.to(q_BLND.dtype), v_BMND.to(q_BLND.dtype))


def backend_problem(backend: str, device: torch.device) -> str | None:
    """Why one of the backends that ``auto`` chooses from cannot be used on a device, or None if it can.

    A tiny call finds out, once; PyTorch's own is trusted anywhere but on a GPU.
    """
    if device.type != "cuda" and backend == "sdpa":
        return None
    package = libraries.PACKAGES.get(backend)
    if package is not None and device.type != "cuda":
        return f"it wants a GPU, and this is {device.type}"
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return _failed_probe(backend, device)


@functools.cache
def _failed_probe(backend: str, device: torch.device) -> str | None:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, tokens, 2, 64, generator=generator).to(dtype) for tokens in (16, 48, 48))
    wanted = _sdpa(q.float(), k.float(), v.float())
    try:
        made = _DIFFERENTIABLE[backend](q.to(device), k.to(device), v.to(device)).float().cpu()
    except Exception as error:  # noqa: BLE001 - what a package and a driver raise is theirs to choose
        _log.warning("dense attention by %s failed on %s", backend, device, exc_info=True)
        return f"a probe failed with {type(error).__name__}"
    return None if torch.allclose(made, wanted, atol=2e-2) else "a probe gave wrong numbers"


def _auto_backend(device: torch.device) -> str:
    # What compiles a network cannot see through a probe, and PyTorch's own is what it knows.
    return "sdpa" if torch.compiler.is_compiling() or device.type == "meta" else _chosen(device)


@functools.cache
def _chosen(device: torch.device) -> str:
    problems = {}
    for name in _DIFFERENTIABLE:
        problem = backend_problem(name, device)
        if problem is None:
            break
        problems[name] = problem
    why = "".join(f"; not {other}: {problem}" for other, problem in problems.items())
    _log.info("dense attention on %s uses backend %s%s", device, name, why)
    return name


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, k_scale: Tensor | None, v_scale: Tensor | None, backend: str
) -> Tensor:
    check_backend("dense attention", backend, BACKENDS, q.device.type)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(f"dense attention by {backend!r} has no gradient; choose 'sdpa'")
    scales = None if k_scale is None or v_scale is None else (k_scale, v_scale)
    return forward.attend(q, k, v, scales, interpret=backend == "interpreter")[0]
