"""Things with engines or sails that turn: an airship, an airplane, a windmill."""

import math

import torch
from torch import Tensor

from ultraflash.training.vista.palette import column, mix
from ultraflash.training.vista.thing import Canvas, Thing


class Airship(Thing):
    """A long hull with a stripe, fins and a gondola; its nose points right, and it drifts to and fro."""

    def drift(self, time: float) -> float:
        """Slow way forth and back."""
        return 0.08 * self.swing(time, 13.0)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw fins, gondola and hull."""
        size = 0.19 * self.scene.object_size
        centre = (self.x(time), self.scene.object_y - 0.08 + 0.02 * self.swing(time, 6.0))
        c = Canvas(frame_3HW, self.view, centre, size, (-1.5, -0.8, 1.4, 0.9))
        if c.empty:
            return
        dark = mix(self.color, (0.1, 0.1, 0.12), 0.35)
        for end in (-1.0, 1.0):
            reach = 0.66 - end * c.y - 0.35 * (c.x + 1.45)
            fin = torch.minimum(torch.minimum(c.x + 1.4, -0.72 - c.x), torch.minimum(reach, end * c.y))
            c.paint(dark, c.cover(fin))
        c.paint(self.seen((0.30, 0.28, 0.30)), c.box(-0.42, 0.38, 0.34, 0.66))
        pane = (1.0, 0.86, 0.48) if self.palette.night else self.seen((0.75, 0.88, 0.95))
        for left in (-0.32, -0.12, 0.08):
            c.paint(pane, c.box(left, 0.46, left + 0.13, 0.57))
        hull = (1.0 - torch.hypot(c.x / 1.25, c.y / 0.46)) * 0.46
        pale = (
            self.seen((1.0, 1.0, 1.0))
            if self.scene.object_color != "white"
            else self.seen((0.62, 0.66, 0.72))
        )
        stripe = c.cover(0.07 - c.y.abs()).unsqueeze(0)
        skin = torch.lerp(column(self.color), column(mix(self.color, pale, 0.7)), stripe)
        light = 1.02 - 0.42 * (c.y + 0.25) + 0.06 * self.side * c.x
        c.paint((skin * light.unsqueeze(0)).clamp(0.0, 1.0), c.cover(hull))


class Airplane(Thing):
    """A small propeller plane that flies to the right, with a pale trail."""

    reach = 0.45

    def drift(self, time: float) -> float:
        """Crosses the picture in a quarter of a minute."""
        return 0.10 * time

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw trail, tail, body, wing and propeller."""
        size = 0.17 * self.scene.object_size
        centre = (self.x(time), self.scene.object_y - 0.06 + 0.02 * self.swing(time, 5.0))
        c = Canvas(frame_3HW, self.view, centre, size, (-3.2, -0.8, 1.3, 0.7))
        if c.empty:
            return
        fade = (1.0 - (-0.9 - c.x) / 2.2).clamp(0.0, 1.0) * (c.x < -0.9)
        c.paint(self.seen((0.95, 0.95, 0.97)), 0.55 * fade * c.cover(0.05 - (c.y + 0.02).abs()))
        dark = mix(self.color, (0.1, 0.1, 0.12), 0.30)
        tail = torch.minimum(torch.minimum(c.x + 1.05, -0.02 - c.y), -0.55 - c.x + 0.6 * c.y)
        c.paint(dark, c.cover(torch.minimum(tail, c.y + 0.62)))
        body = (1.0 - torch.hypot((c.x - 0.05) / 1.02, c.y / (0.27 - 0.08 * (c.x < -0.2)))) * 0.25
        shade = (1.0 - 0.35 * (c.y + 0.05)).unsqueeze(0)
        c.paint((column(self.color) * shade).clamp(0.0, 1.0), c.cover(body))
        c.paint(
            self.seen((0.80, 0.92, 1.0)),
            c.cover(0.2 - torch.hypot((c.x - 0.35) * 0.8, c.y + 0.2)) * (c.y < -0.12),
        )
        c.paint(self.seen((0.97, 0.97, 0.97)), c.box(-0.85, -0.03, 0.95, 0.03) * c.cover(body))
        wing = c.cover(
            torch.minimum(0.10 - (c.y - 0.10 - 0.25 * (0.2 - c.x)).abs(), 0.52 - (c.x - 0.05).abs())
        )
        c.paint(dark, wing)
        spin = 0.12 + 0.30 * abs(math.sin(23.0 * time))
        c.paint(self.seen((0.25, 0.25, 0.28)), c.box(1.06, -spin, 1.12, spin))


class Windmill(Thing):
    """A tapered tower with a cap, and four sails that turn."""

    speed_depth = 0.22

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw tower, door and window, cap and sails."""
        size = 0.36 * self.scene.object_size
        foot = 0.86
        c = Canvas(frame_3HW, self.view, (self.x(time), foot), size, (-0.85, -1.7, 0.85, 0.05))
        if c.empty:
            return
        half = 0.24 + 0.13 * c.y.clamp(-1.0, 0.0)
        tower = c.cover(half - c.x.abs()) * c.cover(torch.minimum(c.y + 0.98, -c.y))
        shade = (0.88 + 0.24 * self.side * (c.x / half).clamp(-1.0, 1.0)).unsqueeze(0)
        c.paint((column(self.color) * shade).clamp(0.0, 1.0), tower)
        dark = self.seen((0.24, 0.18, 0.16))
        c.paint(dark, c.box(-0.06, -0.20, 0.06, 0.0))
        lamp = (1.0, 0.86, 0.48) if self.palette.night else self.seen((0.75, 0.88, 0.95))
        for row in (-0.42, -0.68):
            c.paint(lamp, c.box(-0.04, row - 0.05, 0.04, row + 0.05))
        cap = torch.minimum(0.17 - torch.hypot(c.x, c.y + 0.97), -0.95 - c.y)
        c.paint(mix(self.color, (0.1, 0.1, 0.12), 0.45), c.cover(cap))
        turn = 0.9 * time + self.scene.object_phase
        pale = self.seen((0.95, 0.94, 0.90))
        for sail in range(4):
            angle = turn + sail * math.pi / 2.0
            along = c.x * math.cos(angle) + (c.y + 1.0) * math.sin(angle)
            aside = -c.x * math.sin(angle) + (c.y + 1.0) * math.cos(angle)
            cloth = torch.minimum(
                torch.minimum(along - 0.14, 0.64 - along), torch.minimum(aside, 0.13 - aside)
            )
            c.paint(pale, c.cover(cloth))
            c.paint(dark, c.cover(torch.minimum(0.018 - aside.abs(), torch.minimum(along, 0.66 - along))))
        c.paint(dark, c.cover(0.045 - torch.hypot(c.x, c.y + 1.0)))
