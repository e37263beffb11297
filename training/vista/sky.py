"""The sky: gradient, sun or moon with its glow, stars, aurora, clouds."""

import math

import torch
from torch import Tensor

from ultraflash.training.vista.layers import Sheet, Track, splat
from ultraflash.training.vista.noise import fbm, fbm_line, smoothstep, table
from ultraflash.training.vista.palette import Palette, column
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.view import Clock, View

_CLOUD_COVER = {"clear": 0.62, "cloudy": 0.02, "rain": -0.62, "snow": -0.30, "fog": 0.9}


class Sky:
    """Opaque background: painted once, with stars that twinkle."""

    def __init__(self, scene: Scene, view: View, palette: Palette) -> None:
        """Paint the still part for the rows of `view`."""
        self.still_3HW = _gradient(scene, view, palette)
        self.stars_HW: tuple[Tensor, Tensor] | None = None
        if palette.night and scene.weather in ("clear", "cloudy"):
            self.stars_HW = (_stars(scene.seed, view), _stars(scene.seed + 1, view))
        _sun(self.still_3HW, scene, view, palette)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Copy the sky into the frame."""
        frame_3HW.copy_(self.still_3HW)
        if self.stars_HW is not None:
            twinkle = 0.35 * math.sin(3.1 * time)
            frame_3HW.add_(self.stars_HW[0] * (0.7 + twinkle)).add_(self.stars_HW[1] * (0.7 - twinkle))


def _gradient(scene: Scene, view: View, palette: Palette) -> Tensor:
    height_H = (view.y().float() / scene.horizon).clamp(0.0, 1.0).view(1, -1, 1)
    upper = torch.lerp(column(palette.top), column(palette.middle), smoothstep(0.0, 0.75, height_H))
    sky = torch.lerp(upper, column(palette.low), smoothstep(0.45, 1.0, height_H))
    return sky.expand(3, view.rows, view.cols).contiguous()


def _stars(seed: int, view: View) -> Tensor:
    stars_N4 = table(seed * 7 + 5, 110, 4)
    canvas = torch.zeros(1, view.rows, view.cols)
    bright_N = stars_N4[:, 2] ** 2
    splat(
        canvas, view, x_N=(stars_N4[:, 0] * 2.0 - 1.0), y_N=stars_N4[:, 1] * 0.6,
        radius_N=0.0022 + 0.0022 * bright_N, color_C=torch.ones(1), alpha_N=0.35 + 0.65 * bright_N,
    )  # fmt: skip
    return canvas[0]


def _sun(sky_3HW: Tensor, scene: Scene, view: View, palette: Palette) -> None:
    dx = view.x().float().view(1, -1) - scene.sun_x
    dy = view.y().float().view(-1, 1) - scene.sun_y
    distance_HW = torch.sqrt(dx * dx + dy * dy)
    radius = {"day": 0.045, "night": 0.055}.get(scene.time, 0.075)
    color = column(palette.sun)
    wide = (0.30 if palette.night else 0.55) * palette.sun_strength
    glow_HW = wide * torch.exp(-distance_HW / 0.16) + 0.35 * wide * torch.exp(-distance_HW / 0.45)
    sky_3HW.lerp_(color.expand_as(sky_3HW), glow_HW.unsqueeze(0).expand_as(sky_3HW))
    disc_HW = ((radius - distance_HW) * view.ppu + 0.5).clamp(0.0, 1.0) * palette.sun_strength
    disc = color
    if palette.night:
        spots = fbm(scene.seed + 2, view.x(), view.y(), freq=(22.0, 22.0), octaves=3, ppu=view.ppu)
        disc = color * (1.0 - 0.14 * smoothstep(0.0, 0.7, spots))
    sky_3HW.lerp_(disc.expand_as(sky_3HW), disc_HW.unsqueeze(0).expand_as(sky_3HW))


class Aurora:
    """Green and violet curtains that wave."""

    def __init__(self, scene: Scene, view: View) -> None:
        """Paint the rays once; only the curtain's lower edge moves."""
        self.view = view
        self.phase = scene.object_phase
        self.rays_W = 0.55 + 0.45 * fbm_line(scene.seed + 3, view.x(), freq=9.0, octaves=4, ppu=view.ppu)
        self.rows = view.row_of(0.5)

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Add the light of the curtains at `time`."""
        x_W = self.view.x().float()
        y_H1 = self.view.y(0, self.rows).float().unsqueeze(1)
        for base, speed, gain in ((0.30, 0.5, 0.75), (0.20, -0.35, 0.5)):
            edge_W = base + 0.05 * torch.sin(2.3 * x_W + speed * time + self.phase)
            edge_W = edge_W + 0.025 * torch.sin(6.1 * x_W - 1.7 * speed * time + 2.0 * self.phase)
            above_HW = edge_W - y_H1
            light_HW = torch.exp(above_HW.clamp(min=0.0) * -7.0) * smoothstep(-0.03, 0.02, above_HW)
            pulse_W = self.rays_W * (0.75 + 0.25 * torch.sin(3.7 * x_W + 1.3 * speed * time))
            light_HW = light_HW * pulse_W * gain
            violet_HW = (above_HW * 4.0).clamp(0.0, 1.0)
            part = frame_3HW[:, : self.rows]
            part[0].add_(light_HW * (0.10 + 0.45 * violet_HW))
            part[1].add_(light_HW * (0.80 - 0.60 * violet_HW))
            part[2].add_(light_HW * (0.42 + 0.20 * violet_HW))


def clouds(scene: Scene, view: View, clock: Clock, palette: Palette) -> list[Sheet]:
    """Two sheets of clouds, the lower one slower and flatter; flatter towards the horizon."""
    sheets = []
    for number, (depth, drift, freq, stretch) in enumerate(((0.05, 0.6, 2.6, 2.6), (0.09, 1.0, 1.7, 2.2))):
        track = Track(view=view, clock=clock, depth=depth, drift=scene.wind * drift)
        rows = view.row_of(scene.horizon + 0.02)
        y_H = view.y(0, rows)
        flat_H = y_H + 0.9 * y_H * y_H
        size = {"freq": (freq, freq * stretch), "octaves": 6, "ppu": view.ppu}
        seed = scene.seed + 11 + number
        body_HW = fbm(seed, track.x(), flat_H, **size)
        above_HW = fbm(seed, track.x() + 0.035 * math.copysign(1.0, scene.sun_x), flat_H - 0.06, **size)
        cover = _CLOUD_COVER[scene.weather] + (0.12 if number else 0.0)
        alpha_HW = smoothstep(cover, cover + 0.42, body_HW)
        fade_H1 = smoothstep(scene.horizon + 0.02, scene.horizon - 0.16, y_H.float()).unsqueeze(1)
        lit_HW = smoothstep(-0.45, 0.45, body_HW * 0.3 + 0.1 - above_HW * 0.75)
        rgb = torch.lerp(column(palette.cloud_shade), column(palette.cloud_lit), lit_HW.unsqueeze(0))
        sheets.append(Sheet(track, rgb, alpha_HW * fade_H1 * 0.92, 0))
    return sheets
