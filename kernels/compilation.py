"""Compile a kernel for a device that is not here, and read off what it would use.

Needs Triton, imported at the first call; needs no GPU and no driver.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ultraflash.kernels.devices import DEVICES

_TYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "float8_e4m3fn": "fp8e4nv",
    "int8": "i8",
    "uint8": "u8",
    "int32": "i32",
}
_FLOAT32 = re.compile(
    r"^(lse|delta|threshold|score|gate|factor|offset|cos|sin|(\w+_)?(mean|scale|weight|stream))_ptr$"
)
_INT32 = re.compile(r"^((row|col|count)_ptr|(row|col)_idx)$")
_FLOATS = ("score_scale", "root", "eps", "pixel_offset")
_STRIDE = re.compile(r"^(new|cached|scale|q|k|x|gate|factor|offset)_(batch|block|token|head|frame)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one compiled kernel takes.

    Attributes:
        registers: 32-bit registers of a lane.
        spilled: bytes of a lane that did not fit in registers and go through memory.
        shared: bytes of shared memory of a program.
        resident: programs that fit on a multiprocessor at a time, 0 if not one does.
    """

    registers: int
    spilled: int
    shared: int
    resident: int

    @property
    def survives(self) -> bool:
        """Whether it fits and spills nothing."""
        return self.spilled == 0 and self.resident > 0


def compile_ahead(
    kernel: Any, constants: Mapping[str, Any], *, arch: str, dtype: str, warps: int, stages: int
) -> Usage:
    """Compile for `arch`, one of `DEVICES`, as a launch with aligned tensors of `dtype` would.

    Args:
        kernel: a function under `triton.jit`.
        constants: its compile-time constants. QUANTIZED makes keys and values int8, the
            cached ones where it tells them from new ones.
        arch: such as "sm_90" or "gfx942".
        dtype: of queries, keys and values: bfloat16, float16, float32 or, with a result in bfloat16, float8_e4m3fn.
        warps, stages: as in `launch.launch`.
    """
    signature, aligned = _signature(kernel, constants, _TYPES[dtype])
    return _compile(kernel, constants, signature, aligned, arch=arch, warps=warps, stages=stages)


def compile_launch(kernel: Any, arguments: Mapping[str, Any], *, arch: str, warps: int, stages: int) -> Usage:
    """Compile for `arch` what a launch with these arguments would: their types, constants and alignment.

    Args:
        kernel: a function under `triton.jit`.
        arguments: as `launch.launch` takes them, tensors on any device.
        arch, warps, stages: as in `compile_ahead`.
    """
    constants = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
    signature, aligned = {}, []
    for parameter in kernel.params:
        name, value = parameter.name, arguments[parameter.name]
        if isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[str(value.dtype).removeprefix('torch.')]}"
            multiple = value.data_ptr() % 16 == 0
        else:
            signature[name] = (
                "constexpr" if parameter.is_constexpr else "fp32" if isinstance(value, float) else "i32"
            )
            multiple = signature[name] == "i32" and value % 16 == 0 and not parameter.do_not_specialize
        if multiple:
            aligned.append(name)
    return _compile(kernel, constants, signature, aligned, arch=arch, warps=warps, stages=stages)


def _compile(
    kernel: Any,
    constants: Mapping[str, Any],
    signature: dict[str, str],
    aligned: list[str],
    *,
    arch: str,
    warps: int,
    stages: int,
) -> Usage:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        kernel,
        signature=signature,
        constexprs=dict(constants),
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    nvidia = arch.startswith("sm_")
    target = GPUTarget("cuda", int(arch[3:]), 32) if nvidia else GPUTarget("hip", arch, 64)
    said = io.StringIO()
    knobs = triton.knobs
    with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(said):
        knobs.compilation.always_compile = True  # a cached result has no report of the assembler
        knobs.nvidia.dump_ptxas_log = True
        made = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    registers, spilled = _nvidia_report(said.getvalue()) if nvidia else _amd_report(made.asm["amdgcn"])
    shared = int(made.metadata.shared)
    resident = DEVICES[arch].resident_programs(registers=registers, shared=shared, warps=warps)
    return Usage(registers=registers, spilled=spilled, shared=shared, resident=resident)


def _signature(kernel: Any, constants: Mapping[str, Any], element: str) -> tuple[dict[str, str], list[str]]:
    """Types by parameter, and the parameters that are multiples of 16, as tensors and strides in use are."""
    types: dict[str, str] = {}
    # Where there is a cache beside the new keys, it alone may be quantized.
    cached = ("cached_k_ptr", "cached_v_ptr")
    narrow = cached if cached[0] in kernel.arg_names else ("k_ptr", "v_ptr", "x_ptr")
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif _FLOAT32.match(name):
            types[name] = "*fp32"
        elif _INT32.match(name):
            types[name] = "*i32"
        elif name in narrow and constants.get("QUANTIZED"):
            types[name] = "*i8"
        elif name == "byte_ptr":
            types[name] = "*u8"
        elif name in ("out_ptr", "normed_ptr") and element == _TYPES["float8_e4m3fn"]:
            types[name] = "*bf16"
        elif name.endswith("_ptr"):
            types[name] = f"*{element}"
        else:
            types[name] = "fp32" if name in _FLOATS else "i32"
    aligned = [name for name, kind in types.items() if kind.startswith("*") or _STRIDE.match(name)]
    return types, aligned


def _nvidia_report(text: str) -> tuple[int, int]:
    """Registers and spilled bytes (the larger of stores and loads) out of what `ptxas -v` says."""
    registers = re.search(r"Used (\d+) registers", text)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", text)
    if registers is None or not spills:
        raise ValueError(f"ptxas did not say what the kernel uses: {text!r}")
    return int(registers.group(1)), max(int(spilled) for spilled in spills)


def _amd_report(assembly: str) -> tuple[int, int]:
    """Vector registers (accumulation registers included) and spilled bytes out of the kernel's metadata."""
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    spilled = re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    if registers is None or spilled is None:
        raise ValueError("the assembly does not say what the kernel uses")
    return int(registers.group(1)), 4 * int(spilled.group(1))
