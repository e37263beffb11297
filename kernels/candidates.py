"""The kernels whose tiles are chosen per device, and the tiles to choose from.

Needs Triton, imported when a kernel is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ultraflash.kernels.block_sparse.device_selection import TILE_PLACES, TILE_PLACES_SCORED, TILE_TOKENS
from ultraflash.kernels.devices import DEVICES
from ultraflash.kernels.launch import tile_width
from ultraflash.kernels.pixels.forward import TILES as QUADS
from ultraflash.kernels.tiles import Tiles

WIDTHS = (64, 128)
"""Head sizes in use."""

BLOCK_TOKENS = 128
"""Tokens of a block that block-sparse kernels are compiled for; smaller blocks have smaller tiles."""

MODEL_WIDTH = 1536
"""What kernels without keys are compiled for: E of the full-size network."""

DTYPES = ("bfloat16", "float16", "float32")

SHAPES = ((128, 64, 8), (128, 32, 8), (64, 64, 8), (64, 64, 4), (64, 32, 4), (32, 64, 4), (32, 32, 4))
"""Queries, keys and warps."""

TILES = tuple(Tiles(m=m, j=j, warps=warps, stages=stages) for m, j, warps in SHAPES for stages in (3, 2, 1))
"""Larger tiles first: each key that is loaded serves more queries."""

WHOLE_BLOCKS = tuple(Tiles(m=BLOCK_TOKENS, j=BLOCK_TOKENS, warps=8, stages=stages) for stages in (3, 2))
"""A block of keys at a time."""

ROW_TILES = tuple(Tiles(m=m, j=1, warps=warps, stages=1) for m in (4, 2, 1) for warps in (8, 4))
"""Of kernels without keys: what belongs to a frame is loaded once for all tokens of a tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kernel as it is compiled.

    Attributes:
        module: where its device code is.
        function: its name there.
        flags: compile-time constants beside the sizes.
        listed: whether it works on blocks of a fixed number of tokens.
        archs, dtypes, widths: what it is compiled for.
        tiles: to choose from, the first that survives is taken.
        fastest: those that come before them where they won in bfloat16, by device and width; see `README.md`.
    """

    module: str
    function: str
    flags: tuple[tuple[str, bool], ...] = ()
    listed: bool = True
    archs: tuple[str, ...] = tuple(DEVICES)
    dtypes: tuple[str, ...] = DTYPES
    widths: tuple[int, ...] = WIDTHS
    tiles: tuple[Tiles, ...] = TILES
    fastest: Mapping[tuple[str, int], tuple[Tiles, ...]] = field(default_factory=dict)

    def candidates(self, arch: str, width: int) -> tuple[Tiles, ...]:
        """The tiles to choose from on a device, in order."""
        return (*self.fastest.get((arch, width), ()), *self.tiles)

    def kernel(self) -> Any:
        """The function under `triton.jit`."""
        import importlib

        return getattr(importlib.import_module(self.module), self.function)

    def constants(self, *, arch: str, dtype: str, width: int, tiles: Tiles) -> dict[str, Any]:
        """Compile-time constants for a head size of `width`."""
        precision = "tf32"
        if dtype == "float32":
            precision = "tf32x3" if arch.startswith("sm_") else "ieee"
        sizes: dict[str, Any] = {
            "SIZE": width,
            "WIDTH": width,
            "TILE_M": tiles.m,
            "TILE_J": tiles.j,
            "PRECISION": precision,
            **dict(self.flags),
        }
        return {**sizes, "T": BLOCK_TOKENS} if self.listed else sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowVariant(Variant):
    """A kernel that works on whole tokens and has no keys; its width is that of the model, filled up.

    Attributes:
        sizes: compile-time constants that are numbers.
    """

    widths: tuple[int, ...] = (tile_width(MODEL_WIDTH),)
    tiles: tuple[Tiles, ...] = ROW_TILES
    sizes: tuple[tuple[str, int], ...] = ()

    def constants(self, *, arch: str, dtype: str, width: int, tiles: Tiles) -> dict[str, Any]:
        """Compile-time constants for the full-size network."""
        return {
            "SIZE": MODEL_WIDTH, "WIDTH": width, "TILE_M": tiles.m, **dict(self.flags), **dict(self.sizes)
        }  # fmt: skip


_DENSE = "ultraflash.kernels.attention.triton"
_BLOCK_SPARSE = "ultraflash.kernels.block_sparse.triton"
_BACKWARD = "ultraflash.kernels.block_sparse.triton_backward"

VARIANTS = {
    "attend_forward": Variant(
        module=_BLOCK_SPARSE,
        function="attend_forward",
        flags=(("CACHED", True), ("RING", True), ("QUANTIZED", False)),
        fastest={("sm_90", 128): WHOLE_BLOCKS},
    ),
    "attend_forward_int8": Variant(
        module=_BLOCK_SPARSE,
        function="attend_forward",
        flags=(("CACHED", True), ("RING", True), ("QUANTIZED", True)),
    ),
    "attend_dense": Variant(
        module=_DENSE, function="attend_dense", flags=(("QUANTIZED", False),), listed=False
    ),
    "attend_dense_int8": Variant(
        module=_DENSE, function="attend_dense", flags=(("QUANTIZED", True),), listed=False
    ),
    "query_gradient": Variant(module=_BACKWARD, function="query_gradient", flags=(("CACHED", True),)),
    "key_gradient": Variant(module=_BACKWARD, function="key_gradient"),
    "attend_fp8": Variant(
        module="ultraflash.kernels.block_sparse.triton_fp8",
        function="attend_fp8",
        archs=("sm_89", "sm_90", "sm_100", "sm_120"),
        dtypes=("float8_e4m3fn",),
    ),
    "heads_of": RowVariant(
        module="ultraflash.kernels.heads.triton",
        function="heads_of",
        flags=(("NORM", True), ("ROTATE", True), ("GRID", True)),
        sizes=(("PAIRS", 64), ("BLOCK_F", 2), ("BLOCK_H", 8), ("BLOCK_W", 8)),
    ),
    "residual_norm": RowVariant(
        module="ultraflash.kernels.residual_norm.triton",
        function="residual_norm",
        flags=(("UPDATE", True), ("GATED", True), ("NORM", True), ("PER_FRAME", True)),
    ),
}
"""By the name that the table of tiles has for them."""

_CHOICE = "ultraflash.kernels.block_sparse.triton_selection"

CHOICE: tuple[tuple[Variant, dict[str, Any]], ...] = (
    (
        Variant(module=_CHOICE, function="block_means"),
        {"T": BLOCK_TOKENS, "SIZE": 128, "WIDTH": 128, "TILE_T": TILE_TOKENS, "QUANTIZED": False},
    ),
    (
        Variant(module=_CHOICE, function="pair_scores"),
        {"SIZE": 128, "WIDTH": 128, "TILE_W": TILE_PLACES_SCORED, "CAUSAL": True},
    ),
    *(
        (
            Variant(module=_CHOICE, function="kept_places"),
            {"TILE_W": TILE_PLACES, "CAUSAL": True, "DIAGONAL": True, "WRITE": write},
        )
        for write in (False, True)
    ),
)
"""The kernels that choose blocks, whose tiles are the same everywhere, with their compile-time constants."""

PACKING: tuple[tuple[Variant, dict[str, Any]], ...] = tuple(
    (
        Variant(module="ultraflash.kernels.pixels.triton", function="pack_quads"),
        {"TILE_M": QUADS.m, "PLANES": planes, "INTERLEAVED": interleaved},
    )
    for planes, interleaved in ((False, False), (True, False), (True, True))
)
"""The kernel that makes bytes of pixels, likewise."""
