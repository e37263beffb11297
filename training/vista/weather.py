"""What the weather puts between the camera and the land: rain, snow, banks of fog.

Shapes: H window rows, W window columns, N flakes.
"""

import torch
from torch import Tensor

from ultraflash.training.vista.layers import Sheet, Track, splat
from ultraflash.training.vista.noise import fbm, smoothstep, table
from ultraflash.training.vista.palette import Palette, column, mix
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.view import Clock, View


class Rain:
    """Slanted streaks in three depths."""

    def __init__(self, scene: Scene, view: View, palette: Palette) -> None:
        """Lay out the streaks; only their phase changes with time."""
        self.color = column(mix(palette.low, (1.0, 1.0, 1.0), 0.45 if not palette.night else 0.25))
        self.layers: list[tuple[Tensor, Tensor, float, float]] = []
        x_1W, y_H1 = view.x().float().unsqueeze(0), view.y().float().unsqueeze(1)
        slant = 0.16 if scene.wind > 0 else -0.16
        for number, (cell, period, width, gain) in enumerate(
            ((0.022, 0.55, 0.0016, 0.30), (0.040, 0.75, 0.0024, 0.42), (0.090, 1.0, 0.0034, 0.50))
        ):
            across_HW = (x_1W + slant * y_H1) / cell
            cell_HW = torch.floor(across_HW)
            index_HW = cell_HW.long() % 512
            dice = table(scene.seed + 80 + number, 512, 2)
            middle_HW = 0.25 + 0.5 * dice[:, 0][index_HW]
            drawn = max(width, 0.55 / view.ppu)
            cover_HW = ((drawn - (across_HW - cell_HW - middle_HW).abs() * cell) * view.ppu + 0.5).clamp_(
                0.0, 1.0
            )
            phase_HW = y_H1 / period + 7.0 * dice[:, 1][index_HW]
            self.layers.append((cover_HW * gain * (width / drawn), phase_HW, 1.9 / period, 0.30))

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Blend the streaks over the frame."""
        total: Tensor | None = None
        for cover_HW, phase_HW, speed, length in self.layers:
            along_HW = torch.frac(phase_HW - (speed * time - 64.0 * (speed * time // 64.0)) + 64.0)
            streak_HW = (along_HW - (1.0 - length)).clamp_(min=0.0).mul_(cover_HW / length)
            total = streak_HW if total is None else total.add_(streak_HW)
        if total is not None:
            frame_3HW.add_((self.color - frame_3HW).mul_(total.clamp_(max=0.8)))


class Snow:
    """Flakes in three depths that sway as they fall."""

    def __init__(self, scene: Scene, view: View, clock: Clock, palette: Palette) -> None:
        """Keep what is needed to draw."""
        self.scene, self.view, self.clock = scene, view, clock
        self.color = torch.tensor(mix((1.0, 1.0, 1.0), palette.low, 0.30 if palette.night else 0.08))

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Blend the flakes over the frame."""
        for number, (count, radius, speed, depth) in enumerate(
            ((130, 0.0042, 0.13, 0.3), (70, 0.0068, 0.20, 0.6), (28, 0.0105, 0.30, 1.0))
        ):
            dice = table(self.scene.seed + 90 + number, count, 4)
            sway_N = 0.02 * torch.sin(1.5 * time + 6.2832 * dice[:, 2])
            moved_N = dice[:, 0] * 2.0 + sway_N + self.scene.wind * 1.5 * time - self.clock.pan(time) * depth
            fallen_N = dice[:, 1] * 1.1 + speed * (0.8 + 0.4 * dice[:, 3]) * time
            splat(
                frame_3HW, self.view, x_N=moved_N % 2.0 - 1.0, y_N=fallen_N % 1.1 - 0.05,
                radius_N=radius * (0.7 + 0.6 * dice[:, 2]), color_C=self.color, alpha_N=torch.full((count,), 0.9),
            )  # fmt: skip


def fog_banks(scene: Scene, view: View, clock: Clock, palette: Palette, *, far: bool) -> Sheet:
    """A drifting bank of fog: `far` ones lie on the horizon, near ones over the foreground."""
    depth, drift = (0.15, 0.05) if far else (0.6, 0.11)
    track = Track(view=view, clock=clock, depth=depth, drift=drift if scene.wind > 0 else -drift)
    first = view.row_of(scene.horizon - 0.30)
    y_R = view.y(first, view.rows)
    seed = scene.seed + (100 if far else 101)
    body_RS = fbm(seed, track.x(), y_R, freq=(1.3, 4.2), octaves=4, ppu=view.ppu)
    middle = scene.horizon if far else scene.horizon + 0.22
    band_R1 = torch.exp(-(((y_R.float() - middle) / 0.17) ** 2)).unsqueeze(1)
    alpha_RS = smoothstep(-0.7, 0.8, body_RS) * band_R1 * (0.85 if far else 0.62)
    rgb = column(mix(palette.haze, (1.0, 1.0, 1.0), 0.04 if palette.night else 0.18)).expand(
        3, *alpha_RS.shape
    )
    return Sheet(track, rgb, alpha_RS, first)
