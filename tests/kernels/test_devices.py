import pytest

from ultraflash.kernels.devices import DEVICES


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "resident"),
    [
        ("sm_90", 128, 0, 4, 4),  # 65536 / (128 * 32 * 4)
        ("sm_90", 32, 100 * 1024, 4, 2),  # two times 101 KiB of 228
        ("sm_90", 16, 0, 1, 32),  # no more than 32 programs
        ("sm_89", 32, 0, 8, 6),  # 48 warps
        ("sm_89", 32, 100 * 1024, 4, 0),  # one KiB more than a program may have
        ("sm_80", 33, 0, 4, 12),  # given out as 40
        ("gfx942", 128, 0, 4, 4),
        ("gfx942", 64, 33 * 1024, 4, 1),
    ],
)
def test_as_many_programs_are_resident_as_the_scarcest_resource_allows(
    arch: str, registers: int, shared: int, warps: int, resident: int
) -> None:
    assert DEVICES[arch].resident_programs(registers=registers, shared=shared, warps=warps) == resident
