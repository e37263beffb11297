"""The preset of a machine: of weights in real folders, and of memory that is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ultraflash.models.memory_plan import GIB
from ultraflash.models.preset import load_preset
from ultraflash.models.preset_choice import best_first, best_preset, choose_preset
from ultraflash.models.sources import HOME_VARIABLE

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


def put_weights(home: Path, name: str) -> None:
    """Files of every network of a preset, where they would be after `ultraflash models pull`."""
    for source in load_preset(name).sources:
        (home / source.store).mkdir(exist_ok=True)
        (home / source.store / f"{source.part}.safetensors").touch()


def test_presets_are_ordered_by_their_networks_their_pictures_and_their_memory() -> None:
    assert [preset.name for preset in best_first()] == [
        "ultraflash-2k",
        "ultraflash-1k",
        "ultraflash-long",
        "self-forcing",
        "mini",
    ]


def test_a_machine_without_a_gpu_runs_mini_whatever_it_has_weights_of(home: Path) -> None:
    put_weights(home, "ultraflash-1k")
    choice = choose_preset(device=CPU, free=100 * GIB)
    assert choice.preset == "mini"
    assert "no GPU" in choice.reason


def test_the_best_preset_whose_weights_are_here_is_chosen(home: Path) -> None:
    choice = choose_preset(device=GPU, free=80 * GIB)
    assert choice.preset == "mini"
    assert "ultraflash models pull ultraflash-2k" in choice.reason
    put_weights(home, "self-forcing")
    assert choose_preset(device=GPU, free=80 * GIB).preset == "self-forcing"
    put_weights(home, "ultraflash-1k")
    assert choose_preset(device=GPU, free=80 * GIB).preset == "ultraflash-1k"
    put_weights(home, "ultraflash-2k")
    choice = choose_preset(device=GPU, free=80 * GIB)
    assert (choice.preset, choice.reason) == ("ultraflash-2k", "its weights are here and fit")


def test_of_presets_with_weights_the_best_that_fits_is_chosen(home: Path) -> None:
    for name in ("ultraflash-2k", "ultraflash-1k", "self-forcing"):
        put_weights(home, name)
    choice = choose_preset(device=GPU, free=45 * GIB)
    assert choice.preset == "ultraflash-1k"
    assert "ultraflash-2k at 2K needs" in choice.reason and "of 45.0 free" in choice.reason
    assert choose_preset(device=GPU, free=24 * GIB).preset == "self-forcing"
    assert choose_preset(device=GPU, free=8 * GIB).preset == "mini"


def test_a_size_rules_out_presets_that_do_not_make_it(home: Path) -> None:
    put_weights(home, "ultraflash-1k")
    choice = choose_preset("2K", device=GPU, free=80 * GIB)
    assert choice.preset == "mini"
    assert "ultraflash-1k does not make 2K" in choice.reason


def test_where_nothing_runs_the_smallest_is_left_to_say_why(home: Path) -> None:
    choice = choose_preset(device=CPU, free=1)
    assert choice.preset == "mini"
    assert choice.reason.startswith("nothing runs here as it is") and "mini at 0.5K needs" in choice.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_this_machine_runs_mini() -> None:
    assert best_preset().preset == "mini"
