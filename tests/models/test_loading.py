from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_official import Official

from ultraflash.models.errors import MissingWeights
from ultraflash.models.loading import load_networks, part_folder, part_tensors, parts_of
from ultraflash.models.preset import load_preset

CPU = torch.device("cpu")


def test_a_preset_needs_files_for_the_networks_that_do_not_come_with_the_package() -> None:
    assert parts_of(load_preset("mini")) == (
        "base",
        "sr_x2",
        "sr_x4",
        "upsampler_x2",
        "upsampler_x4",
        "upsampler_x6",
        "decoder",
    )
    assert parts_of(load_preset("self-forcing")) == ("base", "decoder", "text")


def test_shipped_weights_lie_in_the_package_and_official_ones_in_the_folder_of_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path))
    assert part_folder(load_preset("mini"), "sr_x2").name == "mini"
    assert part_folder(load_preset("ultraflash-1k"), "sr") == tmp_path / "ultraflash-sr"
    assert part_folder(load_preset("ultraflash-2k"), "sr") == tmp_path / "ultraflash-sr"
    monkeypatch.delenv("ULTRAFLASH_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert part_folder(load_preset("ultraflash-1k"), "base") == tmp_path / "cache/ultraflash/self-forcing"


def test_what_is_missing_is_named_with_the_command_the_files_the_repository_and_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path))
    with pytest.raises(MissingWeights) as caught:
        load_networks(load_preset("ultraflash-1k"), device=CPU, dtype=torch.float32)
    for told in (
        "ultraflash models pull ultraflash-1k",
        "checkpoints/self_forcing_dmd.pt",
        "https://huggingface.co/guandeh17/Self-Forcing",
        str(tmp_path / "self-forcing"),
    ):
        assert told in caught.value.message


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    preset = replace(load_preset("mini"), weights=str(tmp_path / "absent"))
    with pytest.raises(MissingWeights, match="absent, which is no folder"):
        load_networks(preset, device=CPU, dtype=torch.float32)
    with pytest.raises(MissingWeights, match=r"base\.safetensors; install the package again"):
        part_tensors(replace(preset, weights=str(tmp_path)), "base")


def test_a_folder_of_official_files_of_ones_own_is_read_as_it_is(official: Official, tmp_path: Path) -> None:
    for path in official.home.rglob("*.pt*"):
        (tmp_path / path.name).symlink_to(path)
    preset = replace(official.preset, weights=str(tmp_path))
    for part in ("base", "sr", "upsampler_x2", "upsampler_x3", "decoder"):
        assert part_tensors(preset, part).keys() == official.tensors[part].keys()


def test_a_converted_file_that_was_changed_is_refused_at_the_start(
    official: Official, tmp_path: Path
) -> None:
    (tmp_path / "base.safetensors").write_bytes(b"")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  base.safetensors\n")
    preset = replace(official.preset, weights=str(tmp_path))
    with pytest.raises(MissingWeights, match=r"base\.safetensors is not the file"):
        load_networks(preset, device=CPU, dtype=torch.float32)
