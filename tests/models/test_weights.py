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
    verify_manifest,
    write_manifest,
)


def test_shipped_weights_are_those_of_their_manifest() -> None:
    for name in available_presets():
        folder = SHIPPED / load_preset(name).weights
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


def test_absent_extra_and_misshapen_tensors_are_all_named() -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(
        MissingWeights, match=r"lacks \['bias'\].*unknown \['scale'\].*weight is \(3, 3\), not \(3, 2\)"
    ):
        load_strict(net, {"weight": torch.zeros(3, 3), "scale": torch.zeros(1)}, source="a file")


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    save_file(
        {"weight": torch.full((3, 2), 0.5, dtype=torch.float16), "bias": torch.zeros(3)}, tmp_path / "net"
    )
    load_file(net, tmp_path / "net")
    assert net.weight.dtype == torch.float32
    assert net.weight.unique().tolist() == [0.5]


def test_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="no weights at"):
        load_file(nn.Linear(1, 1), tmp_path / "absent.safetensors")
