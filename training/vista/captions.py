"""Captions as people type them: paraphrases of each attribute, in free order, short or long.

`attributes_in` reads attributes back from the words, so that a test can hold captions to what they claim.
"""

import random
import re

from ultraflash.training.vista.scene import OPEN_PLACE, Scene

BIOME_WORDS: dict[str, tuple[str, ...]] = {
    "sea": (
        "the sea",
        "the ocean",
        "an open sea",
        "ocean waves",
        "a wide ocean",
        "sea waves",
        "the open sea",
    ),
    "lake": (
        "a lake",
        "a calm lake",
        "a mountain lake",
        "a quiet lake",
        "a lake with reflections",
        "a still lake",
    ),
    "mountains": (
        "mountains",
        "rocky mountains",
        "a mountain range",
        "rocky peaks",
        "brown mountains",
        "bare rocky mountains",
    ),
    "snowy mountains": (
        "snowy mountains",
        "snowy peaks",
        "snow-capped mountains",
        "snow covered peaks",
        "white mountains",
    ),
    "desert": ("a desert", "sand dunes", "desert dunes", "the desert", "a sandy desert", "golden dunes"),
    "hills": (
        "green hills",
        "rolling hills",
        "a meadow",
        "grassy hills",
        "a green meadow with flowers",
        "the hills",
    ),
    "forest": ("a forest", "a pine forest", "fir trees", "the woods", "a dense forest", "tall pine trees"),
    "city": ("a city", "a city skyline", "skyscrapers", "city buildings", "the city", "a big city"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise", "in the early morning", "at daybreak", "in soft pink dawn light"),
    "day": (
        "at day",
        "by day",
        "in daylight",
        "at noon",
        "in the daytime",
        "on a bright day",
        "under a blue sky",
    ),
    "dusk": ("at dusk", "at sunset", "in the evening", "under an orange sunset sky", "in the evening glow"),
    "night": ("at night", "by night", "in the moonlight", "under the moon", "on a dark night", "at midnight"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("clear sky", "clear weather", "a clear sky", "fine weather"),
    "cloudy": ("cloudy", "many clouds", "cloudy sky", "overcast with clouds", "drifting clouds"),
    "rain": ("rain", "in the rain", "rain falling", "heavy rain", "raining", "rainy weather"),
    "snow": ("snow falling", "snowfall", "falling snow", "snowing", "in a snowfall", "snowflakes in the air"),
    "fog": ("fog", "in the fog", "foggy", "thick fog", "misty", "in dense mist"),
}
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "still": ("still camera", "static camera", "camera holds still", "fixed camera"),
    "pan left": (
        "camera pans left",
        "camera drifting left",
        "panning left",
        "camera moves to the left",
        "pan left",
    ),
    "pan right": (
        "camera pans right",
        "camera drifting right",
        "panning right",
        "camera moves to the right",
        "pan right",
    ),
    "zoom in": ("camera zooms in", "slow zoom in", "zooming in", "camera moves forward", "zoom in"),
}
OBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "hot air balloon": ("hot air balloon", "hot-air balloon", "balloon"),
    "birds": ("birds", "flock of birds", "flying birds"),
    "kite": ("kite", "flying kite"),
    "sailboat": ("sailboat", "sailing boat", "boat"),
    "lighthouse": ("lighthouse", "striped lighthouse"),
    "train": ("train", "steam train"),
    "fireworks": ("fireworks", "fireworks display"),
    "airship": ("airship", "zeppelin", "blimp"),
    "airplane": ("airplane", "plane", "propeller plane"),
    "windmill": ("windmill", "old windmill"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left side"),
    "center": ("in the center", "in the middle"),
    "right": ("on the right", "at the right side"),
}
_PLURAL = ("birds", "flying birds", "fireworks")
_OVER = ("hot air balloon", "birds", "kite", "fireworks", "airship", "airplane")
_STYLES = (
    "a video of {}",
    "{}",
    "{}",
    "{}",
    "view of {}",
    "{}, cinematic",
    "scenic footage of {}",
    "{}, beautiful scenery",
)
_AURORA = ("aurora in the sky", "northern lights", "green aurora")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _thing(scene: Scene, rng: random.Random) -> str:
    """The object with its colour, and its place: always where it is not `OPEN_PLACE`, so that no place means that."""
    noun = rng.choice(OBJECT_WORDS[str(scene.object)])
    color = str(scene.object_color)
    if noun == "flock of birds":
        phrase = f"a flock of {color} birds"
    elif noun in _PLURAL:
        phrase = f"{color} {noun}"
    else:
        phrase = _article(f"{color} {noun}")
    if scene.object_place != OPEN_PLACE or rng.random() < 0.3:
        phrase += " " + rng.choice(PLACE_WORDS[str(scene.object_place)])
    return phrase


def _subject(scene: Scene, rng: random.Random) -> str:
    """What is seen: the biome, with the object before or behind it."""
    biome = rng.choice(BIOME_WORDS[scene.biome])
    if scene.object is None:
        return biome
    thing = _thing(scene, rng)
    if rng.random() < 0.22:
        return f"{biome} with {thing}"
    words = ("over", "above") if scene.object in _OVER else ("by", "near")
    if scene.object == "sailboat":
        words = ("on", "sailing on")
    elif scene.object == "train":
        words = ("passing", "in front of", "crossing", "through")
    return f"{thing} {rng.choice(words)} {biome}"


def caption(scene: Scene, seed: int) -> str:
    """One caption of a scene; another seed gives another wording.

    Biome, object and colour are always named. Time of day, weather and camera are left out at times: clear weather
    and a still camera mostly, all else seldom.
    """
    rng = random.Random(f"vista-caption-2/{scene.seed}/{seed}")
    subject = _subject(scene, rng)
    tail: list[str] = []
    time = rng.choice(TIME_WORDS[scene.time])
    if rng.random() < 0.95:
        if rng.random() < 0.7:
            subject = f"{subject} {time}"
        else:
            tail.append(time)
    if rng.random() < (0.35 if scene.weather == "clear" else 0.95):
        tail.append(rng.choice(WEATHER_WORDS[scene.weather]))
    if scene.aurora and rng.random() < 0.9:
        tail.append(rng.choice(_AURORA))
    if rng.random() < (0.25 if scene.camera == "still" else 0.92):
        tail.append(rng.choice(CAMERA_WORDS[scene.camera]))
    rng.shuffle(tail)
    if tail and rng.random() < 0.15:
        text = ", ".join([tail[0], subject, *tail[1:]])
    else:
        text = rng.choice(_STYLES).format(", ".join([subject, *tail]))
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.15:
        text += "."
    return text


def attributes_in(text: str) -> dict[str, str]:
    """Attributes of `Scene` that the words of a caption claim; the longest wording found decides."""
    words = text.lower()
    found: dict[str, str] = {}
    for name, wordings in (
        ("biome", BIOME_WORDS),
        ("time", TIME_WORDS),
        ("weather", WEATHER_WORDS),
        ("camera", CAMERA_WORDS),
        ("object", OBJECT_WORDS),
        ("object_place", PLACE_WORDS),
    ):
        matches = [
            (len(form), value)
            for value, forms in wordings.items()
            for form in forms
            if re.search(rf"\b{form}\b", words)
        ]
        if matches:
            found[name] = max(matches)[1]
    return found
