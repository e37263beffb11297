"""Light and colour by time of day and weather. All colours are linear-looking sRGB triples in [0, 1]."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ultraflash.training.vista.scene import Scene

Color = tuple[float, float, float]

OBJECT_COLORS: dict[str, Color] = {
    "red": (0.90, 0.10, 0.10),
    "blue": (0.12, 0.32, 0.95),
    "yellow": (1.0, 0.84, 0.10),
    "green": (0.10, 0.70, 0.25),
    "white": (0.98, 0.98, 0.98),
    "purple": (0.62, 0.18, 0.82),
}


def mix(first: Color, second: Color, amount: float) -> Color:
    """Straight line from `first` (amount 0) to `second` (amount 1)."""
    return (
        first[0] + (second[0] - first[0]) * amount,
        first[1] + (second[1] - first[1]) * amount,
        first[2] + (second[2] - first[2]) * amount,
    )


def times(first: Color, second: Color) -> Color:
    """Material under a light."""
    return first[0] * second[0], first[1] * second[1], first[2] * second[2]


def scaled(color: Color, factor: float) -> Color:
    """Brighter or darker."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def column(color: Color) -> Tensor:
    """Colour as (3, 1, 1)."""
    return torch.tensor(color).view(3, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of the sky and of the light, and how far one sees (`haze_gain` 0 clear .. 1 thick fog)."""

    top: Color
    middle: Color
    low: Color
    sun: Color
    light: Color
    shade: Color
    haze: Color
    cloud_lit: Color
    cloud_shade: Color
    object_light: Color
    haze_gain: float = 0.0
    sun_strength: float = 1.0
    night: bool = False

    def lit(self, material: Color, haze: float) -> Color:
        """Sunlit material seen through `haze` (0 near .. 1 far)."""
        return mix(times(material, self.light), self.haze, self.amount(haze))

    def shaded(self, material: Color, haze: float) -> Color:
        """Material turned away from the sun, seen through `haze`."""
        return mix(times(material, self.shade), self.haze, self.amount(haze))

    def amount(self, haze: float) -> float:
        """Share of the haze colour at depth `haze` in this weather."""
        return 1.0 - (1.0 - haze) * (1.0 - self.haze_gain * (0.35 + 0.65 * haze))


_TIMES = {
    "dawn": Palette(
        top=(0.42, 0.50, 0.80), middle=(0.88, 0.68, 0.78), low=(1.0, 0.83, 0.66), sun=(1.0, 0.93, 0.76),
        light=(1.06, 0.88, 0.82), shade=(0.55, 0.50, 0.68), haze=(0.95, 0.78, 0.76), cloud_lit=(1.0, 0.86, 0.82),
        cloud_shade=(0.74, 0.62, 0.76), object_light=(1.0, 0.92, 0.90),
    ),
    "day": Palette(
        top=(0.13, 0.40, 0.82), middle=(0.38, 0.66, 0.95), low=(0.78, 0.91, 1.0), sun=(1.0, 0.98, 0.86),
        light=(1.05, 1.02, 0.95), shade=(0.56, 0.63, 0.78), haze=(0.76, 0.87, 0.97), cloud_lit=(1.0, 1.0, 1.0),
        cloud_shade=(0.74, 0.80, 0.90), object_light=(1.0, 1.0, 1.0),
    ),
    "dusk": Palette(
        top=(0.16, 0.11, 0.36), middle=(0.66, 0.24, 0.42), low=(1.0, 0.53, 0.20), sun=(1.0, 0.70, 0.30),
        light=(0.98, 0.56, 0.36), shade=(0.32, 0.21, 0.40), haze=(0.90, 0.43, 0.30), cloud_lit=(1.0, 0.56, 0.36),
        cloud_shade=(0.42, 0.22, 0.42), object_light=(0.92, 0.74, 0.68),
    ),
    "night": Palette(
        top=(0.02, 0.03, 0.11), middle=(0.05, 0.085, 0.23), low=(0.13, 0.20, 0.41), sun=(0.94, 0.96, 1.0),
        light=(0.40, 0.49, 0.76), shade=(0.12, 0.155, 0.32), haze=(0.12, 0.175, 0.36), cloud_lit=(0.22, 0.27, 0.42),
        cloud_shade=(0.07, 0.09, 0.19), object_light=(0.74, 0.75, 0.84), night=True,
    ),
}  # fmt: skip


_DAY = ("night", "dawn", "day", "dusk")
_PASSING = 0.3
"""Share of the neighbouring time's colours at the end of an hour's range."""


def _at_hour(time: str, hour: float) -> Palette:
    """The palette of a time of day on its way from the one before it (hour -1) to the next (1)."""
    own = _TIMES[time]
    neighbour = _TIMES[_DAY[(_DAY.index(time) + (1 if hour > 0 else -1)) % len(_DAY)]]
    if neighbour.night != own.night:
        # Stars and lamps come with the night: light passes between the times of a day only.
        return own
    share = _PASSING * abs(hour)
    colors = {
        name: mix(color, getattr(neighbour, name), share)
        for name, color in asdict(own).items()
        if isinstance(color, tuple)
    }
    return replace(own, **colors)


def _grey(color: Color, amount: float, gain: float) -> Color:
    luma = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
    return scaled(mix(color, (luma * 0.97, luma, luma * 1.05), amount), gain)


def palette_of(scene: Scene) -> Palette:
    """The palette of a scene: its time of day, changed by its weather."""
    base = _at_hour(scene.time, scene.hour)
    grey, gain, haze_gain, sun = {
        "clear": (0.0, 1.0, 0.0, 1.0),
        "cloudy": (0.35, 0.92, 0.08, 0.6),
        "rain": (0.60, 0.66, 0.28, 0.0),
        "snow": (0.60, 0.95, 0.30, 0.15),
        "fog": (0.50, 1.0, 0.92, 0.3),
    }[scene.weather]
    if base.night:
        gain = 0.5 + 0.5 * gain
    low, haze = _grey(base.low, grey, gain), _grey(base.haze, grey, gain)
    fog = 0.92 if scene.weather == "fog" else 0.0
    if scene.weather == "fog":
        haze = mix(haze, (0.86, 0.87, 0.89), 0.10 if base.night else 0.35)
    return replace(
        base,
        top=mix(_grey(base.top, grey, gain), haze, fog * 0.85),
        middle=mix(_grey(base.middle, grey, gain), haze, fog),
        low=mix(low, haze, fog),
        haze=haze,
        light=_grey(base.light, grey * 0.6, gain),
        shade=_grey(base.shade, grey * 0.6, gain),
        cloud_lit=_grey(base.cloud_lit, grey * 0.7, gain * (0.8 if scene.weather == "rain" else 0.96)),
        cloud_shade=_grey(base.cloud_shade, grey * 0.7, gain * 0.9),
        haze_gain=haze_gain,
        sun_strength=sun,
    )
