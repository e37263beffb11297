"""The window of the picture that is painted, and how world units map to its pixels.

World units: the height of the picture is 1, y grows downwards from 0 at the top edge, x is 0 in the middle.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Rows `top .. top+rows`, columns `left .. left+cols` of a picture with `ppu` pixels per unit."""

    ppu: float
    aspect: float
    top: int
    left: int
    rows: int
    cols: int

    def y(self, first: int = 0, last: int | None = None) -> Tensor:
        """World y (float64) of the centres of rows [first, last) of the window."""
        stop = self.rows if last is None else last
        return (torch.arange(first + self.top, stop + self.top, dtype=torch.float64) + 0.5) / self.ppu

    def x(self, first: int = 0, last: int | None = None) -> Tensor:
        """World x (float64) of the centres of columns [first, last) of the window; both may lie outside it."""
        stop = self.cols if last is None else last
        pixel = torch.arange(first + self.left, stop + self.left, dtype=torch.float64)
        return (pixel + 0.5) / self.ppu - self.aspect / 2.0

    def row_of(self, y: float) -> int:
        """First row of the window at or below world height y, clipped to the window."""
        return min(self.rows, max(0, int(y * self.ppu) - self.top))

    def col_of(self, x: float) -> int:
        """First column of the window at or right of world x, clipped to the window."""
        return min(self.cols, max(0, int((x + self.aspect / 2.0) * self.ppu) - self.left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The moments of a clip in seconds, and the horizontal path of the camera in world units."""

    times: tuple[float, ...]
    pan_speed: float

    def pan(self, time: float) -> float:
        """How far the camera has moved to the right (units, for the nearest depth)."""
        return self.pan_speed * time
