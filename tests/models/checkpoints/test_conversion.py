import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_official import Official, save, write_tokenizer
from torch import Tensor

from ultraflash.models.checkpoints.conversion import (
    blueprint,
    convert,
    official_files,
    official_networks,
)
from ultraflash.models.checkpoints.files import read_stored, stored_files
from ultraflash.models.checkpoints.lora import low_rank_pairs, merged
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import MissingWeights
from ultraflash.models.loading import part_folder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.sources import Source
from ultraflash.models.tiny_decoder import EncoderConfig, TinyEncoder
from ultraflash.models.weights import check_fit, verify_manifest


def source_of(preset: Preset, part: str) -> Source:
    source = preset.source(part)
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("preset", "part", "keys"),
    [
        ("ultraflash-1k", "base", "base_generator"),
        ("ultraflash-long", "base", "base_generator"),
        ("self-forcing", "base", "base_generator"),
        ("ultraflash-2k", "sr", "sr_dit_sparse"),
        ("ultraflash-1k", "upsampler_x2", "latent_upsampler"),
    ],
)
def test_full_size_networks_have_the_tensors_of_the_official_files(
    golden_dir: Path, preset: str, part: str, keys: str
) -> None:
    listed: dict[str, list[int]] = json.loads((golden_dir / "official_keys.json").read_text())[keys]
    check_fit(blueprint(load_preset(preset), part), on_meta(listed), source=keys)


def test_super_resolution_may_be_of_several_official_files() -> None:
    preset = load_preset("ultraflash-2k")
    assert preset.sr is not None
    own = source_of(preset, "sr")
    several = [replace(own, part=f"sr_x{factor}", store=f"{own.store}-x{factor}") for factor in (2, 3)]
    sources = (*(source for source in preset.sources if source != own), *several)
    preset = replace(preset, sr=replace(preset.sr, networks=((2,), (3,))), sources=sources)
    assert [part_folder(preset, part).name for part in preset.sr_parts] == [one.store for one in several]
    for part in preset.sr_parts:
        assert isinstance(blueprint(preset, part), CausalDiT)
    with pytest.raises(MissingWeights, match="has no sr that official files could be"):
        blueprint(preset, "sr")


@pytest.mark.parametrize("kind", ["tiny_decoder", "ultra_decoder_v3"])
def test_full_size_decoders_have_the_tensors_of_the_official_files(
    golden_dir: Path, tmp_path: Path, kind: str
) -> None:
    preset = load_preset("ultraflash-1k")
    if kind == "ultra_decoder_v3":
        text = (Path(load_preset.__code__.co_filename).parent / "presets" / "ultraflash-1k.toml").read_text()
        (tmp_path / "own.toml").write_text(text.replace('kind = "tiny"', 'kind = "v3"'))
        preset = load_preset(tmp_path / "own.toml")
    listed: dict[str, list[int]] = json.loads((golden_dir / "official_keys.json").read_text())[kind]
    with torch.device("meta"):
        nets = {"decoder": blueprint(preset, "decoder"), "encoder": TinyEncoder(EncoderConfig())}
    for half, net in nets.items():
        own = {k.removeprefix(f"{half}."): v for k, v in listed.items() if k.startswith(half)}
        check_fit(net, on_meta(own), source=kind)


def on_meta(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("part", ["base", "sr", "upsampler_x2", "upsampler_x3", "decoder"])
def test_official_files_become_networks_of_ours(official: Official, part: str) -> None:
    source = source_of(official.preset, part)
    files = official_files(source, official.home / source.store)
    found = official_networks(official.preset, source, files)
    assert found[part].keys() == official.tensors[part].keys()
    for key, tensor in official.tensors[part].items():
        assert torch.equal(found[part][key], tensor.to(found[part][key].dtype)), key
    assert ("encoder" in found) == (part == "decoder")


def test_matrices_of_transformers_are_kept_in_bfloat16_and_what_is_delicate_in_float32(
    official: Official,
) -> None:
    source = source_of(official.preset, "base")
    files = official_files(source, official.home / source.store)
    base = official_networks(official.preset, source, files)["base"]
    assert base["blocks.0.ffn.0.weight"].dtype == torch.bfloat16
    for key in ("blocks.0.modulation", "time_embedding.0.weight", "blocks.1.self_attn.norm_q.weight"):
        assert base[key].dtype == torch.float32


def test_files_are_found_in_the_layout_of_the_repository_or_without_it(
    official: Official, tmp_path: Path
) -> None:
    source = source_of(official.preset, "text")
    save(official.tensors["text"], tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(MissingWeights, match=r"no google/umt5-xxl/\* in .*Wan-AI/Wan2\.1-T2V-1\.3B"):
        official_files(source, tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    names = [path.name for path in official_files(source, tmp_path)]
    assert names == ["models_t5_umt5-xxl-enc-bf16.pth", "tokenizer.json"]


def test_an_upsampler_of_another_factor_is_refused_with_what_was_found(
    official: Official, tmp_path: Path
) -> None:
    source = source_of(official.preset, "upsampler_x3")
    save(official.tensors["upsampler_x2"], tmp_path / "latent_upsampler.pth")
    with pytest.raises(MissingWeights) as caught:
        official_networks(official.preset, source, official_files(source, tmp_path))
    told = caught.value.message
    assert "an upsampler of factor 3: latent_upsampler.pth (factor 2). Put the file that does into" in told
    assert f"{source.folder}, under any name like latent_upsampler*.pth" in told
    assert "Only 2K of tiny-official needs it" in told
    save(official.tensors["upsampler_x3"], tmp_path / "latent_upsampler_of_any_name.pth")
    found = official_networks(official.preset, source, official_files(source, tmp_path))
    assert found["upsampler_x3"].keys() == official.tensors["upsampler_x3"].keys()


def test_an_absent_upsampler_is_named_with_its_factor(official: Official, tmp_path: Path) -> None:
    source = source_of(official.preset, "upsampler_x3")
    with pytest.raises(MissingWeights, match=r"no latent_upsampler\*\.pth of factor 3 in "):
        official_files(source, tmp_path)


def test_a_network_of_another_shape_is_refused_by_name(official: Official, tmp_path: Path) -> None:
    source = source_of(official.preset, "sr")
    save(official.tensors["base"], tmp_path / "sr_dit_sparse.pth")
    with pytest.raises(MissingWeights, match=r"sr_dit_sparse\.pth does not fit CausalDiT: patch_embedding"):
        official_networks(official.preset, source, official_files(source, tmp_path))


@pytest.mark.parametrize("live", [False, True])
def test_low_rank_weights_are_added_in_or_kept_beside(official: Official, tmp_path: Path, live: bool) -> None:
    source = replace(
        source_of(official.preset, "base"),
        files=("longlive_base.pt",),
        lora="lora.pt",
        lora_alpha=4.0,
        lora_live=live,
    )
    layer = "blocks.1.ffn.0"
    lora = {
        f"base_model.model.{layer}.lora_A.weight": torch.randn(2, 24),
        f"base_model.model.{layer}.lora_B.weight": torch.randn(32, 2),
    }
    save({"generator": official.tensors["base"]}, tmp_path / "longlive_base.pt")
    save({"generator_lora": lora}, tmp_path / "lora.pt")
    found = official_networks(official.preset, source, official_files(source, tmp_path))
    pairs = low_rank_pairs(lora, source="x")
    changed = merged(official.tensors["base"], pairs, alpha=4.0, scale=1.0, source="x")
    wanted = official.tensors["base"] if live else changed
    assert torch.equal(found["base"][f"{layer}.weight"], wanted[f"{layer}.weight"].bfloat16())
    assert found.keys() == ({"base", "lora"} if live else {"base"})
    if live:
        again = low_rank_pairs(found["lora"], source="x")
        assert torch.equal(again[layer].up_OR, pairs[layer].up_OR)


def test_what_was_converted_has_a_manifest_and_reads_back_equal(official: Official, tmp_path: Path) -> None:
    for part in ("text", "decoder"):
        source = source_of(official.preset, part)
        files = official_files(source, official.home / source.store)
        convert(official.preset, source, files, tmp_path / part)
        verify_manifest(tmp_path / part)
        stored = read_stored(stored_files(tmp_path / part, part))
        wanted = official_networks(official.preset, source, files)[part]
        assert stored.keys() == wanted.keys()
        assert all(torch.equal(stored[key], wanted[key]) for key in wanted)
    assert (tmp_path / "text" / "tokenizer.json").is_file()
    assert stored_files(tmp_path / "decoder", "encoder")
