from dataclasses import replace
from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig, UltraflashError, UnknownPreset, UnknownSize
from ultraflash.models.loading import part_folder
from ultraflash.models.patch_autoencoder import PatchConfig
from ultraflash.models.preset import PRESETS, available_presets, dump_preset, load_preset
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.tiny_decoder import ULTRA_DECODER_V3, DecoderConfig


def changed(tmp_path: Path, old: str, new: str, *, preset: str = "mini") -> Path:
    text = (PRESETS / f"{preset}.toml").read_text()
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_every_shipped_preset_loads() -> None:
    for name in available_presets():
        assert load_preset(name).name == name


def test_a_preset_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    assert load_preset(changed(tmp_path, 'name = "mini"', 'name = "own"')).name == "own"


def test_a_preset_that_names_no_text_encoder_and_no_kind_of_decoder_has_those_of_mini() -> None:
    preset = load_preset("mini")
    assert preset.text == TextConfig(kind="minilm", tokens=64, width=384)
    assert isinstance(preset.decoder, PatchConfig)
    assert preset.weights == "mini" and preset.sources == ()
    assert all(size.refine for size in preset.sizes)
    assert preset.group_at(0) == (3,)


@pytest.mark.parametrize(
    ("name", "sizes", "factors"),
    [
        ("ultraflash-1k", {"0.5K": "832x480", "1K": "1664x960"}, {2}),
        ("ultraflash-2k", {"0.5K": "832x480", "1K": "1664x960", "2K": "2496x1440"}, {2, 3}),
        ("ultraflash-long", {"0.5K": "832x480", "1K": "1664x960"}, {2}),
        ("self-forcing", {"0.5K": "832x480"}, set()),
    ],
)
def test_official_presets_make_the_published_sizes_and_say_where_every_network_comes_from(
    name: str, sizes: dict[str, str], factors: set[int]
) -> None:
    preset = load_preset(name)
    assert {size.name: size.pixels for size in preset.sizes} == sizes
    assert preset.base.dit.token_grid(preset.base.rows, preset.base.cols) == (30, 52)
    assert preset.base.schedule.timesteps == pytest.approx((1000, 937.5, 2500 / 3, 625))
    assert preset.base.dit.head_dim == 128
    assert preset.upsampler.keys() == factors
    parts = {"base", "decoder", "text", "vae", *(f"upsampler_x{factor}" for factor in factors)}
    parts |= {"sr"} if preset.sr else set()
    assert {source.part for source in preset.sources} == parts
    assert (preset.sr is None) == (name == "self-forcing")


def test_a_stream_of_longlive_starts_with_a_block_of_one_frame() -> None:
    preset = load_preset("ultraflash-long")
    assert preset.group_at(0) == (1, 3)
    assert preset.group_at(4) == (3, 3)
    assert (preset.base.window_frames, preset.base.sink_frames) == (12, 3)
    assert load_preset("ultraflash-1k").group_at(0) == (3, 3)
    base = preset.source("base")
    assert base is not None and base.lora and base.lora_alpha == 256


def test_the_kind_of_a_decoder_chooses_what_its_other_keys_change(tmp_path: Path) -> None:
    assert load_preset("ultraflash-1k").decoder == DecoderConfig()
    path = changed(tmp_path, 'kind = "tiny"', 'kind = "v3"', preset="ultraflash-1k")
    assert load_preset(path).decoder == ULTRA_DECODER_V3


@pytest.mark.parametrize("name", available_presets())
def test_a_preset_that_is_written_to_a_file_reads_back_equal(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(dump_preset(load_preset(name)), encoding="utf-8")
    assert load_preset(path) == load_preset(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "tiny"', 'kind = "huge"', "patch, tiny or v3"),
        ('kind = "tiny"', 'kind = "tiny"\ntime_growth = [1, 1, 2]', "2 frames of 3 colours"),
        ('kind = "umt5"', 'kind = "clip"', "minilm or umt5"),
        ("factor = 1\nrefine = false", "factor = 2\nrefine = false", "takes an upsampler"),
        ('part = "sr"', 'part = "srs"', "a source is of"),
        ('store = "self-forcing"', 'store = "../self-forcing"', "name of a folder"),
        ('["sr_dit_sparse.pth"]', '["/sr_dit_sparse.pth"]', "named as they are in it"),
        ("call_frames = 2", "call_frames = 0", "call_frames starts at 1"),
    ],
)
def test_impossible_official_presets_are_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        load_preset(changed(tmp_path, old, new, preset="ultraflash-1k"))


def test_a_size_that_wants_refining_needs_super_resolution(tmp_path: Path) -> None:
    path = changed(tmp_path, "refine = false", "refine = true", preset="self-forcing")
    with pytest.raises(BadConfig, match="wants super-resolution"):
        load_preset(path)


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownPreset, match="mini"):
        load_preset("maxi")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fps = 16", "fsp = 16", "unknown keys"),
        ("heads = 3", "heads = 5", "5 heads"),
        ("window_frames = 6", "window_frames = 2", "does not fit a window"),
        ("steps = [1000,", "steps = [10,", "falling integers"),
        ("rows = 15", "rows = 17", "more than the base makes"),
        ('name = "mini"', "name = ", "no valid TOML"),
        ("fps = 16", "fps = 0", "fps"),
        ("fps = 16", 'fps = "fast"', "not supported"),
        ("heads = 3", "heads = 0", "heads"),
        ("steps = [1000, 850", "steps = [1000.0, 850", "falling integers"),
        ("steps = [1000, 850, 600, 300]", "steps = 4", "not iterable"),
        ("timestep = 1000.0", "timestep = 0.0", "timestep"),
        ("block = [1, 8, 8]", "block = [1, 8]", "three positive"),
        ("[sr.rule]", "[sr.rules]", "lacks 'rule'"),
        ("local_range = 3", "local_range = 0", "local_range"),
        ("factor = 2", "factor = 0", "factor"),
        ("noise = false", "noise = true", "must be 64"),
        ("networks = [[2], [4, 6]]", "networks = [[2, 4], [4, 6]]", "no factor is in two of them"),
        ("networks = [[2], [4, 6]]", "networks = [2, 4]", r"a list of lists of factors.*not \[2, 4\]"),
        ("networks = [[2], [4, 6]]", "networks = [[2], [], [4, 6]]", "a list of lists"),
        ("networks = [[2], [4, 6]]", "networks = 2", "a list of lists"),
        ("networks = [[2], [4, 6]]", 'networks = [["2"], [4, 6]]', "whole numbers from 1 on"),
        ("networks = [[2], [4, 6]]", "networks = [[2], [true, 4, 6]]", "whole numbers from 1 on"),
        ("networks = [[2], [4, 6]]", "networks = [[2], [6]]", "size 1K wants a network of .* factor 4"),
        ("latent_channels = 32", "latent_channels = 16", "beside decoder.latent_channels = 16"),
        ("[upsampler]\nchannels = 32", "[upsampler]\nchannels = 8", "upsampler.channels"),
    ],
)
def test_impossible_presets_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_preset(changed(tmp_path, old, new))


def test_a_change_of_prompt_that_cannot_be_is_refused_with_the_file(tmp_path: Path) -> None:
    path = changed(tmp_path, 'transition = "fade"', 'transition = "keep"')
    with pytest.raises(BadConfig, match="any other change one, not 3") as caught:
        load_preset(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.param == "prompt_change.groups"


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


@pytest.mark.parametrize("name", available_presets())
def test_the_page_about_presets_names_each_and_every_file_and_folder_of_its_weights(name: str) -> None:
    page = (PRESETS / "README.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in page
    for source in load_preset(name).sources:
        for told in (*source.files, source.store, source.lora):
            assert not told or f"`{told}`" in page, told
        assert f"`{source.repo}`" in page or source.factor == 3


def test_a_preset_says_only_in_what_it_differs_from_the_one_it_extends() -> None:
    fast, mini = load_preset("mini-fast"), load_preset("mini")
    assert fast.base.schedule.nominal_steps == (1000, 750)
    steps = replace(mini.base, schedule=replace(mini.base.schedule, nominal_steps=(1000, 750)))
    assert replace(mini, name=fast.name, description=fast.description, base=steps) == fast


def test_presets_extend_each_other_over_several_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "first.toml").write_text(
        'extends = "mini"\nname = "first"\nweights = "."\n[sr]\nkv = "int8"\n[base.dit]\nlayers = 2\n'
    )
    (tmp_path / "second.toml").write_text(
        'extends = "far/first.toml"\nname = "second"\n[[sizes]]\nname = "0.5K"\nrows = 16\ncols = 28\nfactor = 2\n'
    )
    second, mini = load_preset(tmp_path / "second.toml"), load_preset("mini")
    assert second.sr is not None and (second.name, second.sr.kv) == ("second", "int8")
    assert second.base.dit == replace(mini.base.dit, layers=2)
    assert second.sizes == mini.sizes[:1]
    # Beside the file that says so.
    assert Path(second.weights) == tmp_path / "far"


def test_weights_beside_a_file_are_found_though_its_folder_has_the_name_of_one_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "own.toml").write_text('extends = "mini"\nweights = "."\n')
    for place, path in ((folder, "own.toml"), (tmp_path, "mini/own.toml")):
        monkeypatch.chdir(place)
        assert part_folder(load_preset(path), "base") == folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "own.toml"', "extends itself"),
        ("extends = 3", "takes a preset's name or a path, not 3"),
        ('extends = "nowhere"', "own.toml extends what is not there: no preset 'nowhere'; there are mini"),
        ('extends = "mini"\n[bass]\nsteps = [1000]', "bass"),
    ],
)
def test_what_a_preset_cannot_extend_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UltraflashError, match=message) as caught:
        load_preset(path)
    assert caught.value.code in ("bad_config", "unknown_preset")
