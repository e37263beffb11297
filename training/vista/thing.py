"""What every object of a scene is drawn with: a small window around it, and its path through the picture.

Shapes: h, w the window of the thing in pixels. Local coordinates are in units of the thing's size, y downwards.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ultraflash.training.vista.palette import OBJECT_COLORS, Color, Palette, column, mix, times
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.view import Clock, View

Box = tuple[float, float, float, float]
_PLACE_X = {"left": -0.46, "center": 0.0, "right": 0.46}


class Canvas:
    """A window of the frame with local coordinates, into which shapes are blended."""

    def __init__(
        self, frame_3HW: Tensor, view: View, centre: tuple[float, float], size: float, box: Box
    ) -> None:
        """`box` is (left, top, right, bottom) in local units around `centre`, one unit being `size` world units."""
        left, top, right, bottom = box
        cols = view.col_of(centre[0] + left * size), view.col_of(centre[0] + right * size)
        rows = view.row_of(centre[1] + top * size), view.row_of(centre[1] + bottom * size)
        self.part = frame_3HW[:, rows[0] : rows[1], cols[0] : cols[1]]
        self.x = ((view.x(*cols) - centre[0]) / size).float().unsqueeze(0)
        self.y = ((view.y(*rows) - centre[1]) / size).float().unsqueeze(1)
        self.ppu = view.ppu * size
        self.empty = self.part.numel() == 0

    def cover(self, distance: Tensor) -> Tensor:
        """Antialiased coverage of a signed distance in local units, positive inside."""
        return (distance * self.ppu + 0.5).clamp(0.0, 1.0)

    def paint(self, color: Tensor | Color, cover: Tensor) -> None:
        """Blend a colour, or a picture (3, h, w), over the window."""
        paint = column(color) if isinstance(color, tuple) else color
        self.part.add_((paint - self.part) * cover)

    def box(self, left: float, top: float, right: float, bottom: float) -> Tensor:
        """Coverage of a rectangle."""
        across = self.cover(torch.minimum(self.x - left, right - self.x))
        return across * self.cover(torch.minimum(self.y - top, bottom - self.y))

    def segment(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> Tensor:
        """Coverage of a thick line with round ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = (((self.x - start[0]) * dx + (self.y - start[1]) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0)
        distance = torch.hypot(self.x - start[0] - along * dx, self.y - start[1] - along * dy)
        return self.cover(radius - distance)


class Thing(ABC):
    """The scene's object: subclasses draw it at a moment."""

    speed_depth = 0.15
    reach = 0.25

    def __init__(self, scene: Scene, view: View, clock: Clock, palette: Palette) -> None:
        """Keep what is needed to draw."""
        if scene.object_color is None or scene.object_place is None:
            raise ValueError("a thing needs a scene with object_color and object_place")
        self.scene, self.view, self.clock, self.palette = scene, view, clock, palette
        self.home = _PLACE_X[scene.object_place]
        self.color = self.seen(OBJECT_COLORS[scene.object_color])
        self.side = 1.0 if scene.sun_x > 0 else -1.0

    def seen(self, material: Color) -> Color:
        """Material under the light for objects, with a little haze."""
        haze = min(0.30, self.palette.amount(0.06))
        return mix(times(material, self.palette.object_light), self.palette.haze, haze)

    def drift(self, time: float) -> float:
        """Own horizontal motion."""
        return 0.0

    def x(self, time: float) -> float:
        """World x at a moment; what leaves the picture on one side comes back on the other."""
        width = 1.75 + 2.0 * self.reach
        moved = self.home + self.drift(time) - self.clock.pan(time) * self.speed_depth
        return (moved + width / 2.0) % width - width / 2.0

    def swing(self, time: float, period: float) -> float:
        """Sine of a slow oscillation, as far as it has moved since time 0."""
        phase = self.scene.object_phase
        return math.sin(6.2832 * time / period + phase) - math.sin(phase)

    @abstractmethod
    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw over the frame in place."""
