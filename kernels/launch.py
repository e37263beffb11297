"""Start a Triton kernel: compiled on a GPU, or in Triton's interpreter to test it without one.

Importing this module does not import Triton.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch

LOG2_E = 1.4426950408889634


@functools.cache
def interpreted(kernel: Any) -> Any:
    """The kernel as Triton's interpreter runs it, beside the compiled one in the same process.

    Triton decides between the two for a whole process; here the device functions that a kernel calls are replaced in
    a copy of its global names, so that both can be had.
    """
    from triton.language import core
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    source = kernel.fn
    # The interpreter patches the modules that it finds among a kernel's names; `tl.sum` and its like need `core`.
    names = {**source.__globals__, "core": core}
    for name in source.__code__.co_names:
        if isinstance(names.get(name), JITFunction):
            # Rewritten, not wrapped: the wrapper would patch Triton's language anew at every call, which takes longer
            # than the call.
            names[name] = interpreted(names[name]).rewrite()
    twin = types.FunctionType(source.__code__, names, source.__name__, source.__defaults__)
    twin.__annotations__ = source.__annotations__
    twin.__module__, twin.__qualname__ = source.__module__, source.__qualname__
    return InterpretedFunction(twin)


@contextlib.contextmanager
def interpreted_language() -> Iterator[None]:
    """Within, the parts of Triton's language that are kernels themselves, such as `tl.sum`, are interpreted ones."""
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    if importlib.util.find_spec("triton.experimental") is not None:
        # The interpreter imports it at its first call, and it accepts only compiled functions.
        importlib.import_module("triton.experimental.gluon")
    compiled = [
        (module, name, value)
        for module in (tl, tl.standard)  # the latter is where the interpreter looks up sums to know them
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    ]
    for module, name, value in compiled:
        setattr(module, name, interpreted(value).rewrite())
    try:
        yield
    finally:
        for module, name, value in compiled:
            setattr(module, name, value)


def launch(
    kernel: Any,
    programs: tuple[int, ...],
    arguments: Mapping[str, Any],
    *,
    interpret: bool,
    warps: int = 4,
    stages: int = 1,
) -> None:
    """Run `programs` instances of a kernel.

    Args:
        kernel: a function under `triton.jit`.
        programs: the grid.
        arguments: by the names of the kernel's parameters, compile-time constants included.
        interpret: run in the interpreter, on tensors of any device.
        warps, stages: warps of a program, and loads in flight of its innermost loop.
    """
    if interpret:
        with interpreted_language():
            interpreted(kernel)[programs](**arguments)
    else:
        kernel[programs](**arguments, num_warps=warps, num_stages=stages)


def dot_precision(dtype: torch.dtype, *, interpret: bool) -> str:
    """How products of tiles are to be computed: the PRECISION of `online_softmax.product`."""
    if interpret:
        return "float32"
    if dtype == torch.float32:
        # Three products of TF32 on NVIDIA's tensor cores, close to float32; AMD has float32 ones.
        return "ieee" if torch.version.hip else "tf32x3"
    return "tf32"  # of no effect on 16-bit operands


def tile_width(size: int) -> int:
    """A head size, filled up to what a tile can have: a power of two, at least 16."""
    return max(16, 1 << (size - 1).bit_length())
