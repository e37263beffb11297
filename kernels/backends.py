"""Which implementations of an operator can run here, and what to say when one that was asked for cannot."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

COMPILED = ("triton", "fp8")
"""Backends that are Triton kernels."""
INTERPRETED = ("interpreter", "fp8-interpreter")
"""The same kernels in Triton's interpreter, in the same order."""


class BackendUnavailable(ValueError):
    """A backend was asked for by name that does not exist here, or that cannot run on these tensors.

    Attributes:
        code: stable, machine-readable name of the error class.
    """

    code = "backend_unavailable"


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed. Does not import it: that takes a second and is only needed to run a kernel."""
    return importlib.util.find_spec("triton") is not None


def check_backend(operator: str, name: str, known: tuple[str, ...], device_type: str) -> None:
    """Refuse a backend that cannot run on tensors of this kind of device.

    Raises:
        BackendUnavailable: naming what there is instead.
    """
    if name not in known:
        raise BackendUnavailable(f"no {operator} backend {name!r} here; there are {', '.join(known)}")
    if name not in COMPILED + INTERPRETED:
        return
    others = ", ".join(other for other in known if other not in COMPILED + INTERPRETED)
    if not has_triton():
        raise BackendUnavailable(
            f"the {operator} backend {name!r} needs Triton: pip install 'ultraflash[cuda]', or choose {others}"
        )
    if name in COMPILED and device_type != "cuda":
        twin = INTERPRETED[COMPILED.index(name)]
        raise BackendUnavailable(
            f"the {operator} backend {name!r} needs tensors on a GPU, these are on {device_type}; choose {others}, "
            f"or {twin!r}, which runs the kernel in Python, slowly, to test it"
        )


def gpu_problem(device: torch.device, probe: Callable[[torch.device], bool]) -> str | None:
    """Why Triton kernels cannot be used on a device, or None if they can.

    Args:
        device: where the tensors are.
        probe: runs a tiny call and says whether its result is right. Called on a GPU with Triton only, and without
            autocast. It draws from a generator of its own, or it would shift the random numbers of a training run.
    """
    if device.type != "cuda":
        return f"tensors are on {device.type}"
    if not has_triton():
        return "Triton is not installed"
    try:
        with torch.autocast(device.type, enabled=False):
            right = probe(device)
    except Exception as error:  # noqa: BLE001 - a compiler and a driver can fail in any way; the log has it all
        _log.warning("a Triton kernel failed on %s", device, exc_info=True)
        return f"a probe of the kernel failed with {type(error).__name__}"
    return None if right else "a probe of the kernel gave wrong numbers"


FUSED = ("reference", "triton", "interpreter")
"""Backends of the small operators: PyTorch as it is written, one kernel, and that kernel in Triton's interpreter."""


def fused_backend(
    operator: str, backend: str, inputs: Sequence[Tensor], probe: Callable[[torch.device], bool]
) -> str:
    """The backend of a small operator for one call: the fused kernel has no gradient and is opaque to compilers.

    Args:
        operator: its name in messages.
        backend: "auto", or one of `FUSED`.
        inputs: what a gradient may be wanted of; the first says which device it is about.
        probe: as in `gpu_problem`.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: a gradient is wanted of a backend that was asked for by name and has none.
    """
    device = inputs[0].device
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if backend == "auto":
        # What compiles a network fuses these operators itself, together with what stands around them.
        if trains or device.type != "cuda" or torch.compiler.is_compiling():
            return "reference"
        return _fused_on(operator, device, probe)
    check_backend(operator, backend, FUSED, device.type)
    if trains and backend != "reference":
        raise ValueError(f"the {operator} by {backend!r} has no gradient; choose 'reference'")
    return backend


@functools.cache
def _fused_on(operator: str, device: torch.device, probe: Callable[[torch.device], bool]) -> str:
    problem = gpu_problem(device, probe)
    name = "reference" if problem else "triton"
    _log.info("%s on %s uses backend %s%s", operator, device, name, f", since {problem}" if problem else "")
    return name
