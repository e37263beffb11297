from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig, UnknownPreset
from ultraflash.models.preset import PRESETS, available_presets, load_preset


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (PRESETS / "mini.toml").read_text()
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_every_shipped_preset_loads() -> None:
    for name in available_presets():
        assert load_preset(name).name == name


def test_a_preset_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    assert load_preset(changed(tmp_path, 'name = "mini"', 'name = "own"')).name == "own"


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownPreset, match="mini"):
        load_preset("maxi")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fps = 16", "fsp = 16", "unknown keys"),
        ("heads = 3", "heads = 5", "5 heads"),
        ("window_frames = 9", "window_frames = 2", "does not fit a window"),
        ("steps = [1000,", "steps = [10,", "falling integers"),
        ('default_size = "0.5K"', 'default_size = "9K"', "cannot make size"),
        ("rows = 15", "rows = 17", "more than the base makes"),
        ('name = "mini"', "name = ", "no valid TOML"),
    ],
)
def test_impossible_presets_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises((BadConfig, Exception), match=message) as caught:
        load_preset(changed(tmp_path, old, new))
    assert caught.type.__name__ in {"BadConfig", "UnknownSize"}
