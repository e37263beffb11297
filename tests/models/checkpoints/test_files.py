import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ultraflash.models.checkpoints.files import (
    index_file,
    read_checkpoint,
    read_network,
    read_stored,
    shapes_of,
    store,
    stored_files,
)
from ultraflash.models.errors import MissingWeights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(3)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in TENSORS.items()
    )


def test_a_small_network_is_one_file(tmp_path: Path) -> None:
    store(TENSORS, tmp_path, "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert same(read_stored(stored_files(tmp_path, "net")))


def test_a_large_network_is_shards_and_an_index_that_the_hub_understands(tmp_path: Path) -> None:
    files = store(TENSORS, tmp_path, "net", shard_bytes=30)
    assert [path.name for path in files] == [
        "net-00001-of-00002.safetensors",
        "net-00002-of-00002.safetensors",
    ]
    index = json.loads((tmp_path / index_file("net")).read_text())
    assert index == {
        "metadata": {"total_size": 44},
        "weight_map": {"a": files[0].name, "b": files[1].name, "c": files[1].name},
    }
    assert stored_files(tmp_path, "net") == files
    assert same(read_stored(files))
    assert shapes_of(files) == {"a": (2, 3), "b": (4,), "c": (3,)}


def test_rows_of_a_larger_tensor_are_stored_alone(tmp_path: Path) -> None:
    rows = torch.arange(12.0).view(4, 3)
    (path,) = store({"last": rows[-1:], "turned": rows.T}, tmp_path, "net")
    assert path.stat().st_size < 400
    assert torch.equal(read_stored((path,))["turned"], rows.T)


def test_a_network_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert stored_files(tmp_path, "net") == ()


def test_an_index_that_lists_an_absent_shard_is_refused(tmp_path: Path) -> None:
    files = store(TENSORS, tmp_path, "net", shard_bytes=30)
    files[1].unlink()
    with pytest.raises(MissingWeights, match=r"lacks \['net-00002-of-00002\.safetensors'\]"):
        stored_files(tmp_path, "net")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": {"a": "../other.safetensors"}}'])
def test_an_index_that_is_none_or_leaves_the_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / index_file("net")).write_text(content)
    with pytest.raises(MissingWeights, match="net"):
        stored_files(tmp_path, "net")


def test_torch_files_and_safetensors_are_read_alike(tmp_path: Path) -> None:
    torch.save({"model": TENSORS}, tmp_path / "net.pth")
    save_file(TENSORS, tmp_path / "net.safetensors")
    assert same(read_network(tmp_path / "net.pth"))
    assert same(read_network(tmp_path / "net.safetensors"))
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_network(tmp_path / "old.pth"))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.pth"
    if kind == "torch":
        torch.save({"a": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Harmful()}))
    with pytest.raises(MissingWeights, match="no whole file of tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_file_that_was_cut_short_or_is_absent_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingWeights, match=rf"no weights at .*{name}"):
        read_checkpoint(tmp_path / name)
    torch.save(TENSORS, tmp_path / "net.pth")
    save_file(TENSORS, tmp_path / "net.safetensors")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MissingWeights, match=name):
        read_checkpoint(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(MissingWeights, match="holds a list"):
        read_checkpoint(tmp_path / "list.pt")
