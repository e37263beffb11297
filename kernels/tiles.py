"""How large the tiles of a kernel are on a device: candidates, what compiling them showed, and the one to use.

``tiles.json`` is written by ``benchmarks/kernel_sweep.py``, which compiles candidates ahead of time and records
whether they fit and spill. It cannot rank speed; that takes a GPU and ``benchmarks/kernels.py --tune``.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Sizes that a kernel is compiled for.

    Attributes:
        m: queries of a tile, or tokens of a tile in kernels that have no keys.
        j: keys of a tile.
        warps: warps of a program (wavefronts on AMD).
        stages: loads in flight of the innermost loop.
    """

    m: int
    j: int
    warps: int
    stages: int


INTERPRETED = Tiles(m=64, j=64, warps=1, stages=1)
"""Compiled for nothing; small enough that tests see several tiles."""

FALLBACK = Tiles(m=32, j=32, warps=4, stages=2)
"""For devices that the table does not know: small, so that it fits any of them."""

FALLBACK_FLOAT32 = Tiles(m=16, j=16, warps=4, stages=1)
"""The same for float32, whose products are three of TF32 with operands twice as wide."""

INTERPRETED_ROWS = Tiles(m=8, j=1, warps=1, stages=1)
"""For kernels without keys, compiled for nothing."""

FALLBACK_ROWS = Tiles(m=1, j=1, warps=4, stages=1)
"""For kernels without keys, where the table does not know device, data type or width."""


@functools.cache
def table() -> tuple[dict[str, Any], ...]:
    """Rows of the table: kernel, arch, dtype, width, the tiles, and what compiling them gave."""
    text = files("ultraflash.kernels").joinpath("tiles.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["rows"])


def survivors(kernel: str, arch: str, dtype: str, width: int) -> list[Tiles]:
    """Tiles that neither spill registers nor exceed the device's memory, the one to use first."""
    return [
        Tiles(m=row["m"], j=row["j"], warps=row["warps"], stages=row["stages"])
        for row in table()
        if (row["kernel"], row["arch"], row["dtype"], row["width"]) == (kernel, arch, dtype, width)
        and row["survives"]
    ]


@functools.cache
def tiles_for(
    kernel: str, device: torch.device, dtype: torch.dtype, width: int, *, fallback: Tiles | None = None
) -> Tiles:
    """The tiles to use on a GPU: what was measured there, or the first survivor of the table, or `fallback`, by default
    that of the data type.
    """
    from ultraflash.kernels.tuning import tuned, tuning_name

    kind = str(dtype).removeprefix("torch.")
    measured = tuned(tuning_name(kernel, torch.cuda.get_device_name(device), kind, width))
    if measured is not None:
        return measured
    found = survivors(kernel, architecture(device), kind, width)
    if found:
        return found[0]
    return fallback or (FALLBACK_FLOAT32 if dtype == torch.float32 else FALLBACK)


def architecture(device: torch.device) -> str:
    """The name the table has for a GPU, such as "sm_90" or "gfx942"."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
