"""The steps of quality that a stream can have: a size, and how much of super-resolution's attention it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ultraflash.server.engine import DetailChooser, Engine, PictureSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step. With less attention a size is cheaper, and dearer than the next smaller one all the same."""

    size: PictureSize
    sr_share: float = 1.0

    @property
    def name(self) -> str:
        """As its cost is kept under: that of the size, with the share behind it where that is not all."""
        return self.size.name if self.sr_share == 1 else f"{self.size.name}/{self.sr_share:g}"


def rungs_of(engine: Engine, sizes: Sequence[PictureSize]) -> list[Rung]:
    """All steps of these sizes, cheap to dear where the sizes are small to large."""
    if not isinstance(engine, DetailChooser):
        return [Rung(size=size) for size in sizes]
    return [
        Rung(size=size, sr_share=share) for size in sizes for share in sorted(engine.sr_shares(size.name))
    ]
