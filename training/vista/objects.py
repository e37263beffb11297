"""The things that a caption can name, drawn from implicit shapes in a small window around them.

Shapes: h, w the window of the thing in pixels. Local coordinates are in units of the thing's size, y downwards.
"""

import math

import torch
from torch import Tensor

from ultraflash.training.vista.layers import splat
from ultraflash.training.vista.machines import Airplane, Airship, Windmill
from ultraflash.training.vista.noise import table
from ultraflash.training.vista.palette import OBJECT_COLORS, column, mix
from ultraflash.training.vista.thing import Canvas, Thing


class Balloon(Thing):
    """A hot air balloon with gores, ropes and a basket; its burner glows at night."""

    def drift(self, time: float) -> float:
        """Slow swing to both sides."""
        return 0.10 * self.swing(time, 11.0)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw the balloon."""
        size = 0.135 * self.scene.object_size
        centre = (self.x(time), self.scene.object_y + 0.035 * self.swing(time, 7.0))
        c = Canvas(frame_3HW, self.view, centre, size, (-1.15, -1.15, 1.15, 2.25))
        if c.empty:
            return
        half = torch.where(c.y < 0.5, (1.0 - c.y * c.y).clamp(min=0.0).sqrt(), 0.866 - 0.577 * (c.y - 0.5))
        radial = torch.where(c.y < 0.5, 1.0 - torch.hypot(c.x, c.y), (half - c.x.abs()) * 0.866)
        inside = c.cover(radial) * c.cover(1.4 - c.y)
        across = (c.x / half.clamp(min=0.05)).clamp(-1.0, 1.0)
        angle = torch.asin(across)
        gore = (torch.cos(angle * 8.0) * 4.0 * half).clamp(-1.0, 1.0) * 0.5 + 0.5
        second = mix(self.color, self.seen((1.0, 1.0, 1.0)), 0.30)
        if self.scene.object_color == "white":
            second = self.seen((0.80, 0.82, 0.86))
        skin = torch.lerp(column(self.color), column(second), gore.unsqueeze(0))
        light = 0.78 + 0.30 * across * self.side * (1.0 - 0.3 * c.y.abs()) - 0.10 * c.y
        if self.palette.night:
            light = light + 0.9 * (0.8 + 0.2 * math.sin(9.0 * time)) * torch.exp(-((c.y - 1.3) ** 2) * 1.6)
        c.paint((skin * light.unsqueeze(0)).clamp(0.0, 1.0), inside)
        rope = self.seen((0.22, 0.16, 0.14))
        for end in (-1.0, 1.0):
            c.paint(rope, c.segment((0.33 * end, 1.38), (0.21 * end, 1.78), 0.022))
        c.paint(self.seen((0.45, 0.27, 0.14)), c.box(-0.26, 1.74, 0.26, 2.12))
        c.paint(self.seen((0.62, 0.40, 0.22)), c.box(-0.28, 1.72, 0.28, 1.80))
        if self.palette.night:
            c.paint((1.0, 0.82, 0.40), c.cover(0.12 - torch.hypot(c.x, c.y - 1.52)))


class Sailboat(Thing):
    """A boat with a coloured main sail and a pale jib, bobbing, with its reflection."""

    speed_depth = 0.25

    def drift(self, time: float) -> float:
        """Sails to and fro."""
        return 0.16 * self.swing(time, 14.0)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw the boat."""
        size = 0.15 * self.scene.object_size
        water = self.scene.horizon + 0.12 + 0.006 * math.sin(2.1 * time)
        roll = 0.07 * math.sin(1.7 * time + self.scene.object_phase)
        c = Canvas(frame_3HW, self.view, (self.x(time), water), size, (-1.3, -2.2, 1.3, 1.4))
        if c.empty:
            return
        x, y = c.x, c.y
        ripple = 0.07 * torch.sin(y * 22.0 - 5.0 * time)
        c.x, c.y = x + ripple, -y * 1.6 + 0.02
        self._boat(c, 0.34 * (y > 0.0))
        c.x, c.y = x + roll * y, y - roll * x
        self._boat(c, (y < 0.06).float())

    def _boat(self, c: Canvas, gain: Tensor) -> None:
        white = self.seen((0.97, 0.97, 0.95))
        main = c.cover(
            torch.minimum(torch.minimum(c.x - 0.04, -0.30 - c.y), (1.62 + c.y) - c.x * 1.42) * 0.62
        )
        jib = c.cover(torch.minimum(torch.minimum(-0.05 - c.x, -0.34 - c.y), (1.35 + c.y) + c.x * 1.5) * 0.6)
        shade = (0.92 + 0.16 * c.x * self.side).unsqueeze(0)
        c.paint(column(self.color) * shade, main * gain)
        c.paint(column(mix(self.color, white, 0.62)) * shade, jib * gain)
        c.paint(self.seen((0.35, 0.22, 0.14)), c.box(-0.03, -1.95, 0.03, -0.15) * gain)
        hull = torch.minimum(torch.minimum(c.y + 0.24, 0.07 - c.y), 0.98 - 0.55 * (c.y + 0.24) - c.x.abs())
        c.paint(white, c.cover(hull) * gain)
        c.paint(self.color, c.cover(torch.minimum(hull, 0.035 - (c.y + 0.16).abs())) * gain)


class Birds(Thing):
    """A flock that flaps its wings."""

    def drift(self, time: float) -> float:
        """Flies to and fro."""
        return 0.22 * self.swing(time, 12.0)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw each bird as two bent wings and a body."""
        size = 0.085 * self.scene.object_size
        dice = table(self.scene.seed + 50, 7, 3)
        for bird in range(7):
            row = (bird + 1) // 2
            side = 1 if bird % 2 else -1
            dx = row * 0.13 * side + 0.03 * (float(dice[bird, 0]) - 0.5)
            dy = row * 0.065 + 0.035 * float(dice[bird, 1]) + 0.012 * math.sin(1.3 * time + bird)
            centre = (self.x(time) + dx, self.scene.object_y - 0.10 + dy)
            c = Canvas(frame_3HW, self.view, centre, size, (-1.2, -0.9, 1.2, 0.9))
            if c.empty:
                continue
            flap = math.sin(7.0 * time + 6.28 * float(dice[bird, 2]))
            tip, elbow = -0.18 - 0.50 * flap, -0.28 - 0.16 * flap
            wings = torch.zeros(())
            for end in (-1.0, 1.0):
                inner = c.segment((0.0, 0.0), (0.48 * end, elbow), 0.15)
                outer = c.segment((0.48 * end, elbow), (1.0 * end, tip), 0.10)
                wings = torch.maximum(wings, torch.maximum(inner, outer))
            c.paint(self.color, wings)
            c.paint(mix(self.color, (0.1, 0.1, 0.12), 0.35), c.segment((-0.12, 0.05), (0.12, 0.05), 0.11))


class Lighthouse(Thing):
    """A banded tower on a rock; its lamp turns when it is dark."""

    speed_depth = 0.22

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw the tower, the rock and the beam."""
        size = 0.40 * self.scene.object_size
        foot = self.scene.horizon + 0.035
        centre = (self.x(time), foot)
        dark = self.palette.night or self.scene.time == "dusk" or self.scene.weather in ("fog", "rain")
        c = Canvas(frame_3HW, self.view, centre, size, (-1.3, -1.2, 1.3, 0.2))
        if c.empty:
            return
        if dark:
            self._beam(c, time)
        white = self.seen((0.97, 0.97, 0.95))
        if self.scene.object_color == "white":
            white = self.seen((0.62, 0.66, 0.72))
        rock = torch.minimum(0.36 - c.x.abs() - 1.4 * (0.02 - c.y).clamp(min=0.0), 0.10 - c.y)
        rock = rock + 0.02 * torch.sin(c.x * 41.0) + 0.012 * torch.sin(c.x * 93.0 + c.y * 60.0)
        c.paint(self.seen((0.30, 0.28, 0.28)), c.cover(torch.minimum(rock, c.y + 0.12)))
        half = 0.115 + 0.055 * (c.y + 0.75)
        tower = c.cover(half - c.x.abs()) * c.cover(torch.minimum(c.y + 0.75, -0.02 - c.y))
        band = c.cover((torch.frac((c.y + 0.80) * 3.2) - 0.5).abs() * 0.31 - 0.078)
        round_shade = (0.86 + 0.26 * self.side * (c.x / half).clamp(-1.0, 1.0)).unsqueeze(0)
        skin = torch.lerp(column(self.color), column(white), band.unsqueeze(0)) * round_shade
        c.paint(skin.clamp(0.0, 1.0), tower)
        c.paint(self.seen((0.20, 0.20, 0.24)), c.box(-0.15, -0.79, 0.15, -0.745))
        c.paint(
            (1.0, 0.92, 0.60) if dark else self.seen((0.75, 0.88, 0.95)), c.box(-0.075, -0.90, 0.075, -0.79)
        )
        dome = torch.minimum(-0.895 - c.y, 0.115 - torch.hypot(c.x, (c.y + 0.895)))
        c.paint(self.color, c.cover(dome))

    def _beam(self, c: Canvas, time: float) -> None:
        turn = math.cos(1.6 * time + self.scene.object_phase)
        along = c.x * turn
        width = 0.02 + 0.16 * c.x.abs()
        cone = (1.0 - (c.y + 0.845).abs() / width).clamp(0.0, 1.0) * (along > 0.0)
        fade = (1.0 - c.x.abs() / 1.3).clamp(0.0, 1.0) * abs(turn)
        glow = torch.exp(-torch.hypot(c.x, c.y + 0.845) * 9.0)
        c.paint((1.0, 0.94, 0.70), (0.75 * cone * fade + 0.6 * glow).clamp(0.0, 0.9))


class Train(Thing):
    """A locomotive with four coaches on an embankment, puffing steam."""

    speed_depth = 0.15
    reach = 0.75

    def drift(self, time: float) -> float:
        """Runs to the right."""
        return 0.11 * time

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw track, coaches, engine and steam."""
        size = 0.105 * self.scene.object_size
        rail = 0.80
        self._bank(frame_3HW, rail)
        x0 = self.x(time)
        self._steam(frame_3HW, x0 + 2.70 * size, rail - 1.05 * size, time)
        for coach in range(4):
            self._coach(frame_3HW, (x0 + (coach - 2.65) * 1.52 * size, rail), size)
        self._engine(frame_3HW, (x0 + 2.09 * size, rail), size)

    def _bank(self, frame_3HW: Tensor, rail: float) -> None:
        first, last = self.view.row_of(rail), self.view.row_of(rail + 0.035)
        frame_3HW[:, first:last] = column(self.seen((0.30, 0.25, 0.22)))
        top = self.view.row_of(rail + 0.010)
        frame_3HW[:, first:top] = column(self.seen((0.52, 0.50, 0.50)))

    def _coach(self, frame_3HW: Tensor, centre: tuple[float, float], size: float) -> None:
        c = Canvas(frame_3HW, self.view, centre, size, (-0.85, -0.95, 0.85, 0.05))
        if c.empty:
            return
        c.paint(self.seen((0.15, 0.15, 0.17)), c.box(-0.80, -0.20, 0.80, -0.12))
        c.paint(self.color, c.box(-0.72, -0.82, 0.72, -0.16))
        c.paint(self.seen((0.92, 0.90, 0.84)), c.box(-0.72, -0.34, 0.72, -0.29))
        c.paint(mix(self.color, (0.1, 0.1, 0.12), 0.45), c.box(-0.74, -0.88, 0.74, -0.80))
        pane = (
            (1.0, 0.86, 0.48)
            if self.palette.night or self.scene.time == "dusk"
            else self.seen((0.70, 0.84, 0.92))
        )
        for window in range(4):
            left = -0.62 + 0.325 * window
            c.paint(pane, c.box(left, -0.70, left + 0.23, -0.44))
        for wheel in (-0.5, -0.25, 0.25, 0.5):
            c.paint(self.seen((0.12, 0.12, 0.14)), c.cover(0.10 - torch.hypot(c.x - wheel, c.y + 0.09)))

    def _engine(self, frame_3HW: Tensor, centre: tuple[float, float], size: float) -> None:
        c = Canvas(frame_3HW, self.view, centre, size, (-0.8, -1.25, 1.15, 0.05))
        if c.empty:
            return
        dark = self.seen((0.14, 0.14, 0.17))
        c.paint(dark, c.box(0.52, -1.05, 0.70, -0.6))
        c.paint(self.color, c.box(-0.72, -1.0, -0.05, -0.16))
        c.paint(dark, c.box(-0.78, -1.07, 0.01, -0.97))
        c.paint(
            self.color, c.cover(0.29 - (c.y + 0.46).abs()) * c.cover(torch.minimum(c.x + 0.2, 0.88 - c.x))
        )
        c.paint(dark, c.box(-0.78, -0.22, 0.92, -0.12))
        c.paint((1.0, 0.9, 0.55), c.cover(0.10 - torch.hypot(c.x - 0.90, c.y + 0.46)))
        c.paint(
            (1.0, 0.86, 0.48) if self.palette.night else self.seen((0.7, 0.84, 0.92)),
            c.box(-0.55, -0.85, -0.22, -0.58),
        )
        for wheel, radius in ((-0.45, 0.15), (0.0, 0.15), (0.42, 0.15), (0.78, 0.10)):
            c.paint(dark, c.cover(radius - torch.hypot(c.x - wheel, c.y + radius)))

    def _steam(self, frame_3HW: Tensor, x: float, y: float, time: float) -> None:
        age_N = (torch.arange(22) / 22.0 + time * 0.45) % 1.0
        drift_N = -age_N * 0.50
        splat(
            frame_3HW, self.view, x_N=x + drift_N, y_N=y - 0.02 - 0.13 * age_N.sqrt(),
            radius_N=0.012 + 0.035 * age_N, color_C=torch.tensor(self.seen((0.93, 0.93, 0.95))),
            alpha_N=0.38 * (1.0 - age_N),
        )  # fmt: skip


class Kite(Thing):
    """A diamond kite with a waving tail and a string."""

    def drift(self, time: float) -> float:
        """Sways in the wind."""
        return 0.09 * self.swing(time, 5.0)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw the kite."""
        size = 0.145 * self.scene.object_size
        centre = (self.x(time), self.scene.object_y - 0.04 + 0.03 * self.swing(time, 3.1))
        c = Canvas(frame_3HW, self.view, centre, size, (-1.4, -1.3, 1.4, 4.2))
        if c.empty:
            return
        lean = 0.16 * math.sin(6.2832 * time / 5.0 + self.scene.object_phase) + 0.2
        c.paint(self.seen((0.9, 0.9, 0.9)), c.segment((0.0, 0.1), (-1.2, 4.1), 0.014) * 0.7)
        x, y = c.x - lean * c.y, c.y + lean * c.x
        wave = 0.16 * torch.sin(5.0 * y - 6.0 * time) * (y - 1.2).clamp(0.0, 1.0)
        tail = c.cover(0.045 - (x - wave).abs()) * ((y > 1.2) & (y < 2.7))
        c.paint(self.color, tail)
        for bow in (1.6, 2.1, 2.6):
            c.paint(
                mix(self.color, self.seen((1.0, 1.0, 1.0)), 0.5),
                c.cover(0.13 - torch.hypot((x - wave) * 0.6, (y - bow) * 1.3)),
            )
        lower = torch.where(y > -0.2, 1.4, 0.8)
        shape = (1.0 - x.abs() / 0.78 - (y + 0.2).abs() / lower) * 0.62
        pale = mix(self.color, self.seen((1.0, 1.0, 1.0)), 0.42)
        if self.scene.object_color == "white":
            pale = self.seen((0.72, 0.76, 0.82))
        quarter = c.cover(x) * c.cover(-(y + 0.2)) + c.cover(-x) * c.cover(y + 0.2)
        c.paint(torch.lerp(column(self.color), column(pale), quarter.unsqueeze(0)), c.cover(shape))


class Fireworks(Thing):
    """Bursts of sparks that grow, fall and fade."""

    speed_depth = 0.05

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Draw the bursts that are alive."""
        for stream, period in enumerate((1.5, 1.9)):
            local = time / period + 0.45 * stream + self.scene.object_phase
            number, age = int(local // 1.0), local % 1.0
            dice = table(self.scene.seed + 60 + stream, 512, 2)[number % 512]
            spark_N3 = table(self.scene.seed + 70 + stream, 72, 3)
            angle_N = spark_N3[:, 0] * 6.2832
            reach_N = (
                (0.20 * self.scene.object_size)
                * (0.35 + 0.65 * spark_N3[:, 1].sqrt())
                * (1.0 - (1.0 - age) ** 3)
            )
            x = self.x(time) + 0.42 * (float(dice[0]) - 0.5) * (1.0 if stream else 0.4)
            y = self.scene.object_y - 0.10 + 0.16 * (float(dice[1]) - 0.5)
            for trail, gain in ((0.80, 0.45), (0.90, 0.7), (1.0, 1.0)):
                splat(
                    frame_3HW, self.view, x_N=x + angle_N.cos() * reach_N * trail,
                    y_N=y + angle_N.sin() * reach_N * trail + 0.06 * age * age,
                    radius_N=(0.010 * (1.0 - 0.5 * age)) * torch.ones(72),
                    alpha_N=gain * (1.0 - age**2) * torch.ones(72),
                    color_C=torch.tensor(mix(OBJECT_COLORS[str(self.scene.object_color)], (1.0, 1.0, 1.0), 0.15)),
                )  # fmt: skip


THINGS: dict[str, type[Thing]] = {
    "hot air balloon": Balloon,
    "sailboat": Sailboat,
    "birds": Birds,
    "lighthouse": Lighthouse,
    "train": Train,
    "kite": Kite,
    "fireworks": Fireworks,
    "airship": Airship,
    "airplane": Airplane,
    "windmill": Windmill,
}
