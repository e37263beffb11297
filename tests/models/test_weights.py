from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ultraflash.models.errors import MissingWeights
from ultraflash.models.preset import available_presets, load_preset
from ultraflash.models.weights import (
    MANIFEST,
    SHIPPED,
    load_file,
    load_strict,
    stored_dtype,
    verify_manifest,
    write_manifest,
)


def test_shipped_weights_are_those_of_their_manifest() -> None:
    for preset in map(load_preset, available_presets()):
        if not preset.weights:
            continue
        folder = SHIPPED / preset.weights
        listed = {line.split("  ")[1] for line in (folder / MANIFEST).read_text().splitlines()}
        assert listed == {path.name for path in folder.glob("*.safetensors")}
        verify_manifest(folder)


def test_shipped_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) < 40_000_000


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_file_that_the_manifest_does_not_know_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    write_manifest(tmp_path)
    verify_manifest(tmp_path)
    if damage == "changed":
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.unlink()
    with pytest.raises(MissingWeights, match=r"net\.safetensors"):
        verify_manifest(tmp_path)


def stored(folder: Path, **change: torch.Tensor | None) -> Path:
    """Weights of a Linear(3, 2) in a file, some of them changed or, with None, left out."""
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2), **change}
    path = folder / "net.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_what_is_stored_is_loaded_in_the_dtype_of_the_network(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    load_file(net, stored(tmp_path, weight=torch.full((2, 3), 0.5, dtype=torch.float16)))
    assert net.weight.dtype == torch.float32
    assert net.weight.eq(0.5).all() and net.bias.eq(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"lacks \['bias'\]"),
        ({"scale": torch.ones(1)}, r"unknown \['scale'\]"),
        ({"weight": torch.ones(3, 2)}, r"weight is \(3, 2\), not \(2, 3\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    with pytest.raises(MissingWeights, match=message):
        load_file(net, stored(tmp_path, **change))
    assert torch.equal(net.weight, before)


def test_an_absent_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"absent\.safetensors; install"):
        load_file(nn.Linear(3, 2), tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 30, -1])
def test_a_file_that_was_cut_short_is_refused_as_weights_are(tmp_path: Path, kept: int) -> None:
    path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MissingWeights, match="no whole safetensors file"):
        load_file(nn.Linear(3, 2), path)


def test_the_error_names_where_the_tensors_came_from() -> None:
    with pytest.raises(MissingWeights, match="the moon does not fit Linear"):
        load_strict(nn.Linear(3, 2), {}, source="the moon")


def test_matrices_are_stored_in_half_precision_and_vectors_as_they_are() -> None:
    assert stored_dtype(torch.ones(2, 3)) == torch.float16
    assert stored_dtype(torch.ones(3)) == torch.float32
    assert stored_dtype(torch.ones(2, 2, dtype=torch.int32)) == torch.int32
