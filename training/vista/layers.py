"""Sheets: pictures painted once, wider than the window, and drawn at a sub-pixel shift in each frame.

Shapes: R rows, S sheet columns, H window rows, W window columns. Sheets are premultiplied RGBA, float32.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ultraflash.training.vista.view import Clock, View


class Layer(Protocol):
    """Something that draws itself over a frame."""

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw over `frame_3HW` in place, as it looks at `time` seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Horizontal path of a sheet: `depth` is its share of the camera's pan, `drift` its own speed to the right."""

    view: View
    clock: Clock
    depth: float
    drift: float = 0.0

    def shift(self, time: float) -> float:
        """Pixels between a window column and the sheet column that it shows."""
        return (self.clock.pan(time) * self.depth - self.drift * time) * self.view.ppu

    def span(self) -> tuple[int, int]:
        """Sheet columns [first, last) that the clip will show, counted from the window's left edge."""
        shifts = [self.shift(time) for time in self.clock.times]
        return math.floor(min(shifts)), self.view.cols + math.floor(max(shifts)) + 1

    def x(self) -> Tensor:
        """World x (float64) of the sheet's columns."""
        return self.view.x(*self.span())


class Sheet:
    """A painted sheet that covers window rows [top, top + R)."""

    __slots__ = ("rgba_4RS", "solid", "top", "track")

    def __init__(self, track: Track, rgb_3RS: Tensor, alpha_RS: Tensor, top: int) -> None:
        """`rgb_3RS` is not premultiplied; rows below the last one that is not opaque are later copied, not blended."""
        self.track = track
        self.top = top
        self.rgba_4RS = torch.cat([rgb_3RS * alpha_RS, alpha_RS.unsqueeze(0)])
        open_R = (alpha_RS.amin(dim=1) < 0.999).nonzero()
        self.solid = int(open_R[-1].item()) + 1 if open_R.numel() else 0

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Blend the sheet over the frame at its place at `time`."""
        rows = self.rgba_4RS.shape[1]
        if rows == 0:
            return
        shift = self.track.shift(time)
        column = math.floor(shift)
        weight = shift - column
        first = column - self.track.span()[0]
        cols = self.track.view.cols
        seen_4RW = self.rgba_4RS[:, :, first : first + cols]
        if weight > 1e-6:
            seen_4RW = torch.lerp(seen_4RW, self.rgba_4RS[:, :, first + 1 : first + 1 + cols], weight)
        open_part = frame_3HW[:, self.top : self.top + self.solid]
        open_part.mul_(1.0 - seen_4RW[3:, : self.solid]).add_(seen_4RW[:3, : self.solid])
        frame_3HW[:, self.top + self.solid : self.top + rows] = seen_4RW[:3, self.solid :]


def splat(
    target_CHW: Tensor,
    view: View,
    *,
    x_N: Tensor,
    y_N: Tensor,
    radius_N: Tensor,
    color_C: Tensor,
    alpha_N: Tensor,
) -> None:
    """Blend N soft antialiased discs of one colour over `target_CHW` in place (world units, overlaps saturate)."""
    rows, cols = target_CHW.shape[1:]
    px_N = (x_N + view.aspect / 2.0) * view.ppu - view.left - 0.5
    py_N = y_N * view.ppu - view.top - 0.5
    radius_N = radius_N * view.ppu
    reach = math.ceil(float(radius_N.max().item()) + 1.0) if radius_N.numel() else 0
    near_N = (px_N > -reach) & (px_N < cols + reach) & (py_N > -reach) & (py_N < rows + reach)
    if not bool(near_N.any()):
        return
    px_N, py_N, radius_N, alpha_N = px_N[near_N], py_N[near_N], radius_N[near_N], alpha_N[near_N]
    offset_K = torch.arange(-reach, reach + 1)
    ix_NK = px_N.round().long().unsqueeze(1) + offset_K
    iy_NK = py_N.round().long().unsqueeze(1) + offset_K
    distance_NKK = torch.hypot(
        (ix_NK - px_N.unsqueeze(1)).unsqueeze(1).float(), (iy_NK - py_N.unsqueeze(1)).unsqueeze(2).float()
    )
    drawn_N = radius_N.clamp(min=0.75)
    faint_N = (radius_N / drawn_N) ** 2 * alpha_N
    cover_NKK = (drawn_N.view(-1, 1, 1) + 0.5 - distance_NKK).clamp_(0.0, 1.0) * faint_N.view(-1, 1, 1)
    inside_NKK = ((iy_NK >= 0) & (iy_NK < rows)).unsqueeze(2) & ((ix_NK >= 0) & (ix_NK < cols)).unsqueeze(1)
    index_NKK = iy_NK.clamp(0, rows - 1).unsqueeze(2) * cols + ix_NK.clamp(0, cols - 1).unsqueeze(1)
    mask_P = torch.zeros(rows * cols)
    mask_P.index_add_(0, index_NKK.reshape(-1), (cover_NKK * inside_NKK).float().reshape(-1))
    mask_HW = mask_P.clamp_(0.0, 1.0).view(rows, cols)
    target_CHW.add_((color_C.view(-1, 1, 1) - target_CHW).mul_(mask_HW))
