"""``ultraflash models``: what is here, what is missing and where it would come from, and whether it is right."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from ultraflash.models.weights import SHIPPED
from ultraflash.server.cli import main


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no fetched weights, and no cache of the hub's client."""
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path / "models"))


def own_preset(folder: Path) -> Path:
    """A preset file beside links to the shipped weights, which are its own."""
    for path in (SHIPPED / "mini").iterdir():
        (folder / path.name).symlink_to(path)
    text = (SHIPPED.parent / "presets" / "mini.toml").read_text(encoding="utf-8")
    preset = folder / "own.toml"
    preset.write_text(
        text.replace('weights = "mini"', 'weights = "."').replace('name = "mini"', 'name = "own"')
    )
    return preset


def test_the_list_says_what_is_ready_and_what_the_others_lack(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mini,) = [line for line in lines if line.startswith("mini ")]
    assert "ready" in mini and "1K 1664x960" in mini
    (official,) = [line for line in lines if line.startswith("ultraflash-1k ")]
    assert "0 of 5 parts here" in official and "1K 1664x960" in official
    text = "\n".join(lines)
    assert f"lacks sr: no sr_dit_sparse.pth in {tmp_path / 'models' / 'ultraflash-sr'}" in text
    assert "lacks vae, for streams that start from pictures" in text
    assert "fetch: ultraflash models pull ultraflash-1k" in text


def test_pulling_without_a_network_tells_what_to_put_where_and_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["models", "pull", "self-forcing"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ultraflash: cannot fetch the weights of self-forcing")
    assert "checkpoints/self_forcing_dmd.pt of https://huggingface.co/guandeh17/Self-Forcing" in told
    assert str(tmp_path / "models" / "self-forcing") in told


def test_pulling_what_ships_with_the_package_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "mini"]) == 0
    assert "mini: everything was here already" in capsys.readouterr().out


def test_verifying_checks_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out.splitlines() == ["mini: ok", "mini-fast: ok"]


def test_verifying_what_is_wrong_or_missing_says_so_and_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    preset = own_preset(tmp_path)
    assert main(["models", "verify", str(preset)]) == 0
    sr = tmp_path / "sr_x2.safetensors"
    content = bytearray(sr.read_bytes())
    sr.unlink()
    content[-1] ^= 1
    sr.write_bytes(content)
    capsys.readouterr()
    assert main(["models", "verify", str(preset)]) == 1
    assert "sr_x2.safetensors is not the file" in capsys.readouterr().out
    assert main(["models", "verify", "self-forcing"]) == 1
    assert "base: no checkpoints/self_forcing_dmd.pt" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "status"), [(["pull", "maxi"], 2), (["verify", "maxi"], 2)])
def test_an_unknown_preset_is_a_clear_error(
    capsys: pytest.CaptureFixture[str], options: list[str], status: int
) -> None:
    assert main(["models", *options]) == status
    assert "no preset 'maxi'" in capsys.readouterr().err
