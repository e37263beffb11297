"""How much of super-resolution's sparse attention a stream keeps: less is cheaper, with less detail from afar."""

from __future__ import annotations

from ultraflash.models.preset import Preset

SPARSER = 0.5


def sr_shares(preset: Preset, size: str) -> tuple[float, ...]:
    """Shares that make a difference at a size, all of it first. Raises UnknownSize."""
    refined = preset.sr is not None and preset.size(size).refine
    return (1.0, SPARSER) if refined else (1.0,)


def check_share(share: float) -> float:
    """The share, of the pairs that the preset's rule keeps. Raises ValueError outside of (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"share lies in (0, 1], got {share}")
    return share
