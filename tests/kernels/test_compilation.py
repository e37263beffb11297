"""Every kernel in the tiles that ship, compiled for devices that are not here."""

from typing import Any

import pytest

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.candidates import CHOICE, PACKING, VARIANTS, Variant
from ultraflash.kernels.compilation import compile_ahead
from ultraflash.kernels.devices import DEVICES
from ultraflash.kernels.tiles import FALLBACK, FALLBACK_FLOAT32, survivors, table

GROUPS = sorted({(row["kernel"], row["arch"], row["dtype"], row["width"]) for row in table()})
# No preset computes in float16; it is compiled by hand: pytest -m exhaustive.
every_group = [pytest.param(*of, marks=[pytest.mark.exhaustive] if "float16" in of else []) for of in GROUPS]


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
@pytest.mark.parametrize(("kernel", "arch", "dtype", "width"), every_group)
def test_the_tiles_in_use_fit_and_do_not_spill(kernel: str, arch: str, dtype: str, width: int) -> None:
    tiles = survivors(kernel, arch, dtype, width)[0]
    constants = VARIANTS[kernel].constants(arch=arch, dtype=dtype, width=width, tiles=tiles)
    usage = compile_ahead(
        VARIANTS[kernel].kernel(), constants, arch=arch, dtype=dtype, warps=tiles.warps, stages=tiles.stages
    )
    assert usage.survives, usage


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize(("variant", "constants"), CHOICE)
def test_the_kernels_that_choose_blocks_fit_and_do_not_spill(
    arch: str, variant: Variant, constants: dict[str, Any]
) -> None:
    usage = compile_ahead(variant.kernel(), constants, arch=arch, dtype="bfloat16", warps=4, stages=1)
    assert usage.survives, usage


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
@pytest.mark.parametrize("arch", list(DEVICES))
@pytest.mark.parametrize(("variant", "constants"), PACKING)
def test_the_kernel_that_packs_pixels_fits_and_does_not_spill(
    arch: str, variant: Variant, constants: dict[str, Any]
) -> None:
    usage = compile_ahead(variant.kernel(), constants, arch=arch, dtype="bfloat16", warps=4, stages=1)
    assert usage.survives, usage


@pytest.mark.parametrize("kernel", list(VARIANTS))
def test_every_kernel_has_tiles_for_every_device_in_less_than_32_bits(kernel: str) -> None:
    variant = VARIANTS[kernel]
    for arch in variant.archs:
        for dtype in ("bfloat16", "float16") if "bfloat16" in variant.dtypes else variant.dtypes:
            for width in variant.widths:
                assert survivors(kernel, arch, dtype, width), (arch, dtype, width)


def test_the_table_says_of_every_row_what_its_numbers_say() -> None:
    for row in table():
        resident = DEVICES[row["arch"]].resident_programs(
            registers=row["registers"], shared=row["shared"], warps=row["warps"]
        )
        assert (row["resident"], row["survives"]) == (resident, resident > 0 and row["spilled"] == 0), row


def test_a_device_that_nothing_is_known_of_gets_small_tiles() -> None:
    assert survivors("attend_forward", "sm_75", "bfloat16", 64) == []
    assert FALLBACK.m * FALLBACK.j <= 32 * 32
    assert FALLBACK_FLOAT32.m * FALLBACK_FLOAT32.j <= 16 * 16


def test_what_was_the_fastest_on_a_device_comes_first_there_alone() -> None:
    forward = VARIANTS["attend_forward"]
    ((arch, width), won) = next(iter(forward.fastest.items()))
    assert (
        forward.candidates(arch, width)[0]
        == won[0]
        == survivors("attend_forward", arch, "bfloat16", width)[0]
    )
    assert forward.candidates("sm_100", width) == forward.tiles
