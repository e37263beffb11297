import shutil
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest
import torch
from plain_wan_vae import PlainWanVae
from tiny_official import Official

from ultraflash.models.errors import HubUnreachable
from ultraflash.models.hub import fetch_folder, missing_sources, pull
from ultraflash.models.inventory import inventory, verify
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.wan_vae import VAE, WAN_FILE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, an empty cache of the hub's client, an empty folder of models; the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path / "models"))
    return cache


def fill(cache: Path, official: Official) -> None:
    """Put the official files into the client's cache, as if they had been downloaded."""
    for source in official.preset.sources:
        repo = cache / ("models--" + source.repo.replace("/", "--"))
        shutil.copytree(official.home / source.store, repo / "snapshots" / COMMIT, dirs_exist_ok=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(COMMIT)


def test_without_a_network_the_files_the_repositories_and_the_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable) as caught:
        pull(load_preset("ultraflash-long"), say=lambda _: None)
    for told in (
        "models/longlive_base.pt, models/lora.pt of https://huggingface.co/Efficient-Large-Model/LongLive-1.3B",
        f"into {tmp_path / 'models' / 'longlive'}",
        "sr_dit_sparse.pth of https://huggingface.co/xin1u/UltraFlash",
        "models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/* of https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B",
        "Wan2.1_VAE.pth of https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B",
    ):
        assert told in caught.value.message
    assert not (tmp_path / "models").exists()


def test_upsamplers_whose_files_have_one_pattern_are_told_apart_by_their_factor(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable) as caught:
        pull(load_preset("ultraflash-2k"), say=lambda _: None)
    for factor in (2, 3):
        folder = tmp_path / "models" / f"ultraflash-upsampler-x{factor}"
        told = f"(that of factor {factor}) of https://huggingface.co/xin1u/UltraFlash into {folder}"
        assert told in caught.value.message


def test_what_was_downloaded_is_converted_once_and_verifies(official: Official, offline: Path) -> None:
    fill(offline, official)
    said: list[str] = []
    fetched = pull(official.preset, say=said.append)
    assert [source.part for source in fetched] == [source.part for source in official.preset.sources]
    assert any("fetching checkpoints/self_forcing_dmd.pt of guandeh17/Self-Forcing" in line for line in said)
    assert {state.form for state in inventory(official.preset)} == {"ready"}
    assert verify(official.preset) == {}
    assert pull(official.preset, say=said.append) == ()


def test_files_that_lie_in_the_folder_already_are_converted_without_the_hub(
    official: Official, tmp_path: Path
) -> None:
    shutil.copytree(official.home, tmp_path / "models")
    said: list[str] = []
    pull(official.preset, say=said.append)
    assert said and all(line.startswith("converting") for line in said)
    assert missing_sources(official.preset) == ()
    (tmp_path / "models" / "self-forcing" / "SHA256SUMS").unlink()
    assert [source.part for source in missing_sources(official.preset)] == ["base"]


@pytest.fixture
def with_vae(official: Official, offline: Path) -> Preset:
    """The official preset and the source of Wan's VAE, all of whose other files can be had."""
    fill(offline, official)
    vae = load_preset("ultraflash-1k").source(VAE)
    assert vae is not None
    return replace(official.preset, sources=(vae, *official.preset.sources))


@pytest.mark.parametrize(
    "repo",
    [
        pytest.param("someone/thing", id="refused"),
        pytest.param("Wan-AI/Wan2.1-T2V-1.3B", id="not in the repository"),
    ],
)
def test_the_rest_is_fetched_where_the_hub_does_not_give_the_vae(with_vae: Preset, repo: str) -> None:
    vae, *others = with_vae.sources
    with_vae = replace(with_vae, sources=(replace(vae, repo=repo), *others))
    said: list[str] = []
    fetched = pull(with_vae, say=said.append)
    assert [source.part for source in fetched] == [source.part for source in with_vae.sources[1:]]
    assert [source.part for source in missing_sources(with_vae)] == [VAE]
    (told,) = (line for line in said if line.startswith("no vae, so streams cannot start from pictures: "))
    assert WAN_FILE in told and f"https://huggingface.co/{repo}" in told
    assert "Self-Forcing" not in told


def test_the_rest_is_fetched_where_nothing_is_installed_that_reads_the_vae(
    with_vae: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "wan-vae"
    folder.mkdir(parents=True)
    torch.save(PlainWanVae(base_dim=8).state_dict(), folder / WAN_FILE)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    said: list[str] = []
    fetched = pull(with_vae, say=said.append)
    assert [source.part for source in fetched] == [source.part for source in with_vae.sources[1:]]
    assert any("cannot start from pictures" in line and "ultraflash[official]" in line for line in said)


def test_a_preset_with_a_folder_of_its_own_has_nothing_to_fetch() -> None:
    assert pull(load_preset("mini"), say=lambda _: None) == ()


def test_a_repository_that_cannot_be_had_is_named() -> None:
    with pytest.raises(HubUnreachable, match=r"https://huggingface\.co/someone/thing"):
        fetch_folder("someone/thing")
