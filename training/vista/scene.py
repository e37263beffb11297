"""What a picture of Vista shows: named attributes for the caption, continuous ones for variety."""

import random
import sys
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORLD = 2
"""Version of Vista: a seed's scene differs from version to version. See DATA_CARD.md."""

BIOMES = ("sea", "lake", "mountains", "snowy mountains", "desert", "hills", "forest", "city")
TIMES = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "cloudy", "rain", "snow", "fog")
CAMERAS = ("still", "pan left", "pan right", "zoom in")
COLORS = ("red", "blue", "yellow", "green", "white", "purple")
PLACES = ("left", "center", "right")
OPEN_PLACE = "center"
"""Where an object is whose caption names no place."""
SPLITS = ("train", "test", "held_out")

_LAND = ("mountains", "snowy mountains", "desert", "hills", "forest")
OBJECT_BIOMES: dict[str, tuple[str, ...]] = {
    "hot air balloon": BIOMES,
    "birds": BIOMES,
    "kite": ("sea", "lake", "desert", "hills", "mountains", "snowy mountains"),
    "sailboat": ("sea", "lake"),
    "lighthouse": ("sea", "lake"),
    "train": _LAND,
    "fireworks": ("city", "sea", "lake", "hills", "mountains"),
    "airship": BIOMES,
    "airplane": BIOMES,
    "windmill": ("hills", "desert", "snowy mountains", "mountains"),
}
OBJECTS = tuple(OBJECT_BIOMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture of Vista.

    Lengths are in picture heights and speeds in picture heights per second. `sun_x` is 0 in the middle of the
    picture, `sun_y` and `horizon` are 0 at the top edge and 1 at the bottom, `object_phase` is in radians. `hour` in
    [-1, 1] lets the light of `time` pass into that of the time before (below 0) or after it, but never into or out of
    the night's.
    """

    seed: int
    biome: str
    time: str
    weather: str
    camera: str
    object: str | None = None
    object_color: str | None = None
    object_place: str | None = None
    object_size: float = 1.0
    object_y: float = 0.35
    object_phase: float = 0.0
    hour: float = 0.0
    sun_x: float = 0.3
    sun_y: float = 0.3
    horizon: float = 0.58
    wind: float = 0.05
    pan_speed: float = 0.24
    aurora: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a value that the painter doesn't know."""
        known = {"biome": BIOMES, "time": TIMES, "weather": WEATHERS, "camera": CAMERAS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, not {getattr(self, name)!r}")
        if not -1.0 <= self.hour <= 1.0:
            raise ValueError(f"hour lies in [-1, 1], unlike {self.hour}")
        if self.object is None:
            if self.object_color is not None or self.object_place is not None:
                raise ValueError("a scene without an object has neither object_color nor object_place")
            return
        if self.object not in OBJECTS or self.object_color not in COLORS or self.object_place not in PLACES:
            raise ValueError(f"unknown object: {self.object_color!r} {self.object!r} {self.object_place!r}")
        if self.biome not in OBJECT_BIOMES[self.object]:
            raise ValueError(f"{self.object} does not belong to {self.biome}")
        if self.object == "fireworks" and self.time != "night":
            raise ValueError("fireworks are for the night")


_NAMES = tuple(field.name for field in fields(Scene))


@cache
def held_out_pairs() -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """Pairs of (attribute, value) that training never sees together, from held_out.toml."""
    text = (Path(__file__).parent / "held_out.toml").read_text(encoding="utf-8")
    pairs = []
    for entry in tomllib.loads(text)["pair"]:
        unknown = set(entry) - set(_NAMES)
        if unknown or len(entry) != 2:
            raise ValueError(f"held_out.toml: a pair names two attributes of Scene, not {entry}")
        first, second = entry.items()
        pairs.append((first, second))
    return tuple(pairs)


def held_out_pairs_of(scene: Scene) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The held-out pairs that a scene contains."""
    values = asdict(scene)
    return [pair for pair in held_out_pairs() if all(values[name] == value for name, value in pair)]


def sample_scene(seed: int, split: str = "train") -> Scene:
    """Draw a scene.

    "train" and "test" have no held-out pair and different random streams; each scene of "held_out" has exactly one
    such pair. Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    rng = random.Random(f"vista-{WORLD}/{split}/{seed}")
    forced: dict[str, str] = {}
    if split == "held_out":
        forced = dict(rng.choice(held_out_pairs()))
    wanted = 1 if forced else 0
    while True:
        scene = _draw(rng, forced)
        if scene is not None and len(held_out_pairs_of(scene)) == wanted:
            return scene


def _draw(rng: random.Random, forced: dict[str, str]) -> Scene | None:
    """One random scene with the forced attributes, or None where they can't go together."""
    biome = forced.get("biome") or rng.choice(BIOMES)
    time = forced.get("time") or rng.choice(TIMES)
    weather = forced.get("weather") or rng.choices(WEATHERS, (30, 20, 17, 17, 16))[0]
    camera = forced.get("camera") or rng.choices(CAMERAS, (34, 24, 24, 18))[0]
    wanted_object = forced.get("object")
    thing: str | None = None
    if wanted_object is not None or "object_color" in forced or rng.random() < 0.78:
        possible = [name for name, biomes in OBJECT_BIOMES.items() if biome in biomes]
        if time != "night":
            possible = [name for name in possible if name != "fireworks"]
        weights = [1.5 if name == "hot air balloon" else 1.0 for name in possible]
        thing = wanted_object or rng.choices(possible, weights)[0]
        if thing not in possible:
            return None
    color = place = None
    if thing is not None:
        color = forced.get("object_color") or rng.choice(COLORS)
        place = forced.get("object_place") or rng.choices(PLACES, (28, 44, 28))[0]
    low_sun = {"dawn": (0.38, 0.52), "dusk": (0.40, 0.54), "day": (0.10, 0.22), "night": (0.12, 0.26)}[time]
    return Scene(
        seed=rng.getrandbits(40),
        biome=biome,
        time=time,
        weather=weather,
        camera=camera,
        object=thing,
        object_color=color,
        object_place=place,
        object_size=rng.uniform(0.95, 1.25),
        object_y=rng.uniform(0.27, 0.35),
        object_phase=rng.uniform(0.0, 6.283),
        hour=rng.uniform(-1.0, 1.0),
        sun_x=rng.choice((-1.0, 1.0)) * rng.uniform(0.15, 0.62),
        sun_y=rng.uniform(*low_sun),
        horizon=rng.uniform(0.54, 0.62),
        wind=rng.choice((-1.0, 1.0)) * rng.uniform(0.03, 0.07),
        pan_speed=rng.uniform(0.20, 0.30),
        aurora=time == "night" and weather == "clear" and rng.random() < 0.35,
    )
