"""What a kernel may use on a device, and how many of its programs fit on one multiprocessor at a time.

The limits are those of NVIDIA's CUDA programming guide (technical specifications per compute capability) and of AMD's
CDNA 3 instruction set manual.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Limits of one multiprocessor (a compute unit on AMD).

    Attributes:
        lanes: threads of a warp.
        shared_per_program: bytes of shared memory that one program may have.
        shared: bytes of shared memory for all programs together.
        shared_reserved: bytes that the system takes from each program's share.
        registers: 32-bit registers, of all lanes.
        registers_per_lane: the most that one lane may have.
        register_step: registers are given to a warp in multiples of this.
        warps: resident at a time.
        programs: resident at a time.
    """

    lanes: int
    shared_per_program: int
    shared: int
    shared_reserved: int
    registers: int
    registers_per_lane: int
    register_step: int
    warps: int
    programs: int

    def resident_programs(self, *, registers: int, shared: int, warps: int) -> int:
        """How many programs fit at a time; 0 where not even one does.

        Args:
            registers: of one lane.
            shared: bytes of one program.
            warps: of one program.
        """
        if shared > self.shared_per_program or registers > self.registers_per_lane:
            return 0
        per_warp = _round_up(max(registers, 1) * self.lanes, self.register_step)
        return min(
            self.registers // (per_warp * warps),
            self.shared // (shared + self.shared_reserved)
            if shared + self.shared_reserved
            else self.programs,
            self.warps // warps,
            self.programs,
        )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _nvidia(*, shared_kib: int, warps: int, programs: int) -> Device:
    return Device(
        lanes=32,
        shared_per_program=(shared_kib - 1) * 1024,
        shared=shared_kib * 1024,
        shared_reserved=1024,
        registers=65536,
        registers_per_lane=255,
        register_step=256,
        warps=warps,
        programs=programs,
    )


DEVICES = {
    "sm_80": _nvidia(shared_kib=164, warps=64, programs=32),
    "sm_89": _nvidia(shared_kib=100, warps=48, programs=24),
    "sm_90": _nvidia(shared_kib=228, warps=64, programs=32),
    "sm_100": _nvidia(shared_kib=228, warps=64, programs=32),
    "sm_120": _nvidia(shared_kib=100, warps=48, programs=24),
    # Four units of 512 registers for each of 64 lanes.
    "gfx942": Device(
        lanes=64,
        shared_per_program=64 * 1024,
        shared=64 * 1024,
        shared_reserved=0,
        registers=4 * 512 * 64,
        registers_per_lane=512,
        register_step=8 * 64,
        warps=32,
        programs=32,
    ),
}
"""By the name that `tiles.architecture` gives a GPU."""
