from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig, UltraflashError, UnknownPreset, UnknownSize
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
        ("rows = 15", "rows = 17", "more than the base makes"),
        ('name = "mini"', "name = ", "no valid TOML"),
        ("fps = 16", "fps = 0", "fps"),
        ("fps = 16", 'fps = "fast"', "not supported"),
        ("heads = 3", "heads = 0", "heads"),
        ("steps = [1000, 750", "steps = [1000.0, 750", "falling integers"),
        ("steps = [1000, 750, 500, 250]", "steps = 4", "not iterable"),
        ("timestep = 1000.0", "timestep = 0.0", "timestep"),
        ("block = [1, 8, 8]", "block = [1, 8]", "three positive"),
        ("[sr.rule]", "[sr.rules]", "lacks 'rule'"),
        ("local_range = 3", "local_range = 0", "local_range"),
        ("factor = 2", "factor = 0", "factor"),
        ("in_channels = 64", "in_channels = 32", "must be 64"),
        ("latent_channels = 32", "latent_channels = 16", "beside decoder.latent_channels = 16"),
        ("[upsampler]\nchannels = 32", "[upsampler]\nchannels = 8", "upsampler.channels"),
    ],
)
def test_impossible_presets_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_preset(changed(tmp_path, old, new))


def test_a_default_size_that_cannot_be_made_is_refused_with_the_sizes_that_can(tmp_path: Path) -> None:
    with pytest.raises(UnknownSize, match=r"0\.5K \(896x512\)"):
        load_preset(changed(tmp_path, 'default_size = "0.5K"', 'default_size = "9K"'))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"base = 3", b"sizes = 3", b""])
def test_a_file_that_is_no_preset_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(UltraflashError) as caught:
        load_preset(path)
    assert caught.value.code == "bad_config"
