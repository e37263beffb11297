import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_official import Official, save

from ultraflash.models.hub import pull
from ultraflash.models.inventory import inventory, verify
from ultraflash.models.preset import load_preset
from ultraflash.models.weights import write_manifest


@pytest.fixture
def pulled(official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Official:
    """`official`, converted, in a folder that may be damaged."""
    home = tmp_path / "models"
    shutil.copytree(official.home, home)
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(home))
    pull(official.preset, say=lambda _: None)
    return Official(preset=official.preset, home=home, tensors=official.tensors)


def test_the_shipped_preset_is_ready_and_the_official_ones_say_what_they_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path))
    assert {state.form for state in inventory(load_preset("mini"))} == {"ready"}
    assert verify(load_preset("mini")) == {}
    states = inventory(load_preset("ultraflash-1k"))
    assert {state.form for state in states} == {"missing"}
    assert "sr_dit_sparse.pth" in {state.part: state.reason for state in states}["sr"]
    assert verify(load_preset("ultraflash-1k")).keys() == {state.part for state in states}


def test_official_files_are_told_from_converted_ones_and_checked_too(official_home: Official) -> None:
    assert {state.form for state in inventory(official_home.preset)} == {"official"}
    assert verify(official_home.preset) == {}


def test_a_changed_byte_is_found(pulled: Official) -> None:
    path = pulled.home / "ultraflash-sr" / "sr.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = verify(pulled.preset)
    assert problems.keys() == {"sr"}
    assert "sr.safetensors is not the file" in problems["sr"]


def test_a_tensor_too_few_is_found_although_its_digest_is_listed(pulled: Official) -> None:
    path = pulled.home / "ultraflash-upsampler-x2" / "upsampler_x2.safetensors"
    tensors = load_file(path)
    del tensors["final.bias"]
    save_file(tensors, path)
    write_manifest(path.parent)
    assert "lacks ['final.bias']" in verify(pulled.preset)["upsampler_x2"]


def test_a_folder_without_a_manifest_is_found(pulled: Official) -> None:
    (pulled.home / "self-forcing" / "SHA256SUMS").unlink()
    assert "no SHA256SUMS" in verify(pulled.preset)["base"]


def test_an_official_file_of_another_network_is_found(
    official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(official.home, tmp_path / "models")
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path / "models"))
    save({"a": torch.ones(1)}, tmp_path / "models" / "ultraflash-sr" / "sr_dit_sparse.pth")
    assert "does not fit CausalDiT" in verify(official.preset)["sr"]
