"""Counter-based Gaussian noise: a value depends on (seed, role, index) alone.

No generator state travels with a stream, so two streams never share one, a restored stream goes on with the same
noise, and a stream gives the same frames alone or next to others.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from ultraflash.models.errors import InvalidSeed

_MASK = (1 << 64) - 1
MAX_SEED = (1 << 63) - 1


def check_seed(seed: int) -> int:
    """Return ``seed`` when it is an integer in 0 .. 2**63 - 1, else raise InvalidSeed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InvalidSeed(f"a seed is an integer from 0 to {MAX_SEED}, not {seed!r}", param="seed")
    return seed


def _mix(value: int) -> int:
    """SplitMix64 finalizer (Steele, Lea, Flood 2014): spreads neighbouring counters over 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def counter_noise(shape: tuple[int, ...], *, seed: int, role: str, index: int) -> Tensor:
    """Standard normal float32 on the CPU, the same every time for the same (seed, role, index).

    Between kinds of processors and releases of torch the last bits may differ: they compute logarithms differently.

    Args:
        shape: shape of the result.
        seed: seed of the stream.
        role: what the noise is for, e.g. ``"base.step2"``.
        index: counter within the role, e.g. the number of the block.
    """
    key = _mix(_mix(_mix(check_seed(seed)) ^ zlib.crc32(role.encode())) ^ index)
    generator = torch.Generator().manual_seed(key & MAX_SEED)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
