"""Puts the layers of a scene together, from the sky to the rain, biome by biome."""

from collections.abc import Callable
from dataclasses import replace

from ultraflash.training.vista.layers import Layer, Track
from ultraflash.training.vista.objects import THINGS
from ultraflash.training.vista.palette import Color, Palette, mix, palette_of
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.sky import Aurora, Sky, clouds
from ultraflash.training.vista.terrain import Ground, buildings, conifers, hill, peaks
from ultraflash.training.vista.view import Clock, View
from ultraflash.training.vista.water import Water
from ultraflash.training.vista.weather import Rain, Snow, fog_banks

_GRASS: Color = (0.36, 0.62, 0.22)
_PINE: Color = (0.13, 0.36, 0.22)
_ROCK: Color = (0.56, 0.48, 0.44)
_COLD_ROCK: Color = (0.42, 0.44, 0.52)
_SAND: Color = (0.95, 0.72, 0.42)
_CONCRETE: Color = (0.62, 0.60, 0.64)
_WHITE: Color = (0.94, 0.96, 1.0)


class Stage:
    """What every builder needs, with short ways to make grounds and tracks."""

    def __init__(self, scene: Scene, view: View, clock: Clock) -> None:
        """Derive the palette."""
        self.scene, self.view, self.clock = scene, view, clock
        self.palette: Palette = palette_of(scene)
        self.snowy = scene.weather == "snow"

    def track(self, depth: float, drift: float = 0.0) -> Track:
        """A track at a depth of parallax."""
        return Track(view=self.view, clock=self.clock, depth=depth, drift=drift)

    def ground(self, number: int, base: float, height: float, haze: float, material: Color) -> Ground:
        """Ground number `number` of the scene; snowfall whitens it."""
        seed = self.scene.seed * 131 + number * 17
        seen = mix(material, _WHITE, 0.70) if self.snowy else material
        right = self.scene.sun_x > 0
        return Ground(seed=seed, base=base, height=height, haze=haze, material=seen, sun_right=right)


def compose(scene: Scene, view: View, clock: Clock) -> list[Layer]:
    """All layers of the scene, back to front."""
    stage = Stage(scene, view, clock)
    layers: list[Layer] = [Sky(scene, view, stage.palette)]
    if scene.aurora:
        layers.append(Aurora(scene, view))
    layers += clouds(scene, view, clock, stage.palette)
    land = _BUILDERS[scene.biome](stage)
    things: list[Layer] = []
    if scene.object is not None:
        things.append(THINGS[scene.object](scene, view, clock, stage.palette))
    if scene.object in ("sailboat", "train", "birds", "kite", "windmill"):
        layers += land + things
    elif scene.object == "fireworks":
        layers += things + land
    elif scene.biome == "lake":
        layers += land[:-1] + things + land[-1:] if scene.object != "lighthouse" else land + things
    else:
        layers += land + things
    if scene.weather == "fog":
        layers += [fog_banks(scene, view, clock, stage.palette, far=far) for far in (True, False)]
    elif scene.weather == "rain":
        layers.append(Rain(scene, view, stage.palette))
    elif scene.weather == "snow":
        layers.append(Snow(scene, view, clock, stage.palette))
    return layers


def _sea(stage: Stage) -> list[Layer]:
    horizon = stage.scene.horizon
    island = stage.ground(1, horizon + 0.02, 0.10, 0.62, _ROCK)
    return [
        peaks(stage.track(0.10), stage.palette, island, spacing=0.9, slope=0.55, bottom=horizon + 0.03),
        Water(stage.scene, stage.view, stage.clock, stage.palette, mirror=False),
    ]


def _lake(stage: Stage) -> list[Layer]:
    horizon, palette = stage.scene.horizon, stage.palette
    far = stage.ground(1, horizon + 0.03, 0.34, 0.42, _COLD_ROCK)
    shore = stage.ground(2, horizon - 0.035, 0.05, 0.22, _PINE)
    trees = stage.ground(3, horizon - 0.012, 0.105, 0.10, _PINE)
    limit = horizon + 0.01
    return [
        peaks(stage.track(0.12), palette, far, spacing=0.52, slope=0.95, snow=0.22, bottom=limit),
        hill(stage.track(0.2), palette, shore, freq=1.1, bottom=limit),
        conifers(stage.track(0.26), palette, trees, spacing=0.05, snow=0.8 * stage.snowy, bottom=limit),
        Water(stage.scene, stage.view, stage.clock, palette, mirror=True),
    ]


def _mountains(stage: Stage) -> list[Layer]:
    return _range(stage, _ROCK, 0.0)


def _snowy_mountains(stage: Stage) -> list[Layer]:
    return _range(stage, _COLD_ROCK, 0.55)


def _range(stage: Stage, rock: Color, snow: float) -> list[Layer]:
    palette, horizon = stage.palette, stage.scene.horizon
    white = max(snow, 0.45 if stage.snowy else 0.0)
    far = stage.ground(1, horizon + 0.06, 0.42, 0.58, rock)
    near = stage.ground(2, horizon + 0.18, 0.48, 0.22, rock)
    grass = mix(_GRASS, _WHITE, 0.85) if snow else (0.42, 0.50, 0.24)
    meadow = stage.ground(3, 0.82, 0.07, 0.05, grass)
    trees = stage.ground(4, 0.80, 0.15, 0.08, _PINE)
    return [
        peaks(stage.track(0.12), palette, far, spacing=0.45, slope=1.05, snow=white * 1.1, bottom=0.85),
        peaks(stage.track(0.28), palette, near, spacing=0.68, slope=0.95, snow=white, bottom=0.95),
        conifers(stage.track(0.55), palette, trees, spacing=0.07, snow=0.85 if snow or stage.snowy else 0.0),
        hill(stage.track(0.9), palette, stage.ground(5, 0.92, 0.06, 0.0, meadow.material), freq=1.2),
    ]


def _desert(stage: Stage) -> list[Layer]:
    palette, horizon = stage.palette, stage.scene.horizon
    mesa = stage.ground(1, horizon + 0.04, 0.13, 0.50, (0.80, 0.46, 0.34))
    far = stage.ground(2, horizon + 0.13, 0.20, 0.28, _SAND)
    near = stage.ground(3, horizon + 0.30, 0.24, 0.10, _SAND)
    front = stage.ground(4, 0.90, 0.07, 0.0, _SAND)
    return [
        peaks(stage.track(0.10), palette, mesa, spacing=0.5, slope=0.9, bottom=0.75),
        peaks(stage.track(0.28), palette, far, spacing=0.75, slope=0.36, smooth=True, bottom=0.90),
        peaks(stage.track(0.55), palette, near, spacing=1.15, slope=0.34, smooth=True),
        hill(stage.track(1.0), palette, front, freq=0.8, ripples=True),
    ]


def _hills(stage: Stage) -> list[Layer]:
    palette, horizon = stage.palette, stage.scene.horizon
    return [
        hill(stage.track(0.12), palette, stage.ground(1, horizon, 0.08, 0.55, (0.36, 0.52, 0.36)), freq=1.6),
        hill(
            stage.track(0.28),
            palette,
            stage.ground(2, horizon + 0.09, 0.09, 0.30, (0.40, 0.62, 0.26)),
            freq=1.3,
        ),
        conifers(
            stage.track(0.40), palette, stage.ground(3, horizon + 0.17, 0.07, 0.16, _PINE), spacing=0.11
        ),
        hill(stage.track(0.55), palette, stage.ground(4, horizon + 0.21, 0.08, 0.12, _GRASS), freq=1.1),
        hill(
            stage.track(1.0),
            palette,
            stage.ground(5, 0.87, 0.08, 0.0, _GRASS),
            freq=0.9,
            flowers=not stage.snowy,
        ),
    ]


def _forest(stage: Stage) -> list[Layer]:
    palette, horizon, snow = stage.palette, stage.scene.horizon, 0.8 * stage.snowy
    return [
        conifers(
            stage.track(0.15), palette, stage.ground(1, horizon, 0.20, 0.60, _PINE), spacing=0.06, snow=snow
        ),
        conifers(
            stage.track(0.32),
            palette,
            stage.ground(2, horizon + 0.10, 0.29, 0.35, _PINE),
            spacing=0.10,
            snow=snow,
        ),
        conifers(
            stage.track(0.60), palette, stage.ground(3, 0.80, 0.40, 0.14, _PINE), spacing=0.17, snow=snow
        ),
        conifers(stage.track(1.0), palette, stage.ground(4, 0.97, 0.40, 0.0, _PINE), spacing=0.40, snow=snow),
    ]


def _city(stage: Stage) -> list[Layer]:
    palette, horizon = stage.palette, stage.scene.horizon
    if palette.night:
        palette = replace(palette, shade=(0.20, 0.22, 0.42), light=(0.42, 0.46, 0.70))
    return [
        buildings(
            stage.track(0.12), palette, stage.ground(1, horizon + 0.08, 0.38, 0.60, _CONCRETE), spacing=0.10
        ),
        buildings(
            stage.track(0.30), palette, stage.ground(2, horizon + 0.22, 0.50, 0.30, _CONCRETE), spacing=0.16
        ),
        buildings(
            stage.track(0.60), palette, stage.ground(3, 0.90, 0.46, 0.08, (0.56, 0.46, 0.44)), spacing=0.25
        ),
        hill(stage.track(1.0), palette, stage.ground(4, 0.92, 0.01, 0.0, (0.26, 0.27, 0.30)), freq=0.5),
    ]


_BUILDERS: dict[str, Callable[[Stage], list[Layer]]] = {
    "sea": _sea,
    "lake": _lake,
    "mountains": _mountains,
    "snowy mountains": _snowy_mountains,
    "desert": _desert,
    "hills": _hills,
    "forest": _forest,
    "city": _city,
}
