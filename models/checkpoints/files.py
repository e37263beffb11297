"""Reading and writing files of tensors: safetensors, sharded or not, and torch's own without its pickles."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ultraflash.models.checkpoints.naming import state_dict_of
from ultraflash.models.errors import MissingWeights

SHARD_BYTES = 2 << 30
"""Largest shard: what is read at once stays far below the memory of a small machine."""


def index_file(stem: str) -> str:
    """Name of the index of a sharded network, as the hub's libraries have it."""
    return f"{stem}.safetensors.index.json"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a file of others holds: tensors by name, maybe in dicts inside. Memory-mapped where the format can be.

    Raises:
        MissingWeights: no file there, one that is cut short, or one that holds more than tensors and plain values.
    """
    if not path.is_file():
        raise MissingWeights(
            f"no weights at {path}; fetch them with: ultraflash models pull", param="weights"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(_tensors_in(path, "cpu"))
        # Files of before torch 1.6 are no archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise MissingWeights(
            f"{path} is no whole file of tensors ({str(error).splitlines()[0]}); fetch it again",
            param="weights",
        ) from error
    if not isinstance(loaded, Mapping):
        raise MissingWeights(f"{path} holds a {type(loaded).__name__}, not a network", param="weights")
    return dict(loaded)


def read_network(path: Path) -> dict[str, Tensor]:
    """:func:`read_checkpoint`, and of it the one network that it holds."""
    return state_dict_of(read_checkpoint(path), source=str(path))


def stored_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """The safetensors files of the network called ``stem`` in a folder of ours; none when it isn't there.

    Raises:
        MissingWeights: its index is no index, or lists a file that is absent.
    """
    single, index = folder / f"{stem}.safetensors", folder / index_file(stem)
    if not index.is_file():
        return (single,) if single.is_file() else ()
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise MissingWeights(f"{index} is no index of weights: {error}", param="weights") from error
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise MissingWeights(f"{folder} lacks {absent[:4]}, which {index.name} lists", param="weights")
    return tuple(folder / name for name in names)


def read_stored(files: tuple[Path, ...], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a network of ours, straight from the mapped file to the device.

    Raises:
        MissingWeights: a file is absent, cut short or no safetensors.
    """
    try:
        return {key: _aligned(tensor) for path in files for key, tensor in _tensors_in(path, str(device))}
    except (SafetensorError, FileNotFoundError) as error:
        raise _broken(files, error) from error


def _aligned(tensor: Tensor) -> Tensor:
    """``tensor`` on a border of 64 bytes. On others, where a mapped file may put it, a CPU rounds sums differently."""
    return tensor.clone() if tensor.device.type == "cpu" and tensor.data_ptr() % 64 else tensor


def _tensors_in(path: Path, device: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt", device=device) as file:
        for key in file.keys():
            yield key, file.get_tensor(key)


def shapes_of(files: tuple[Path, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of safetensors files, from their headers alone. Raises MissingWeights."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                shapes.update({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})
    except (SafetensorError, FileNotFoundError) as error:
        raise _broken(files, error) from error
    return shapes


def _broken(files: tuple[Path, ...], error: Exception) -> MissingWeights:
    names = ", ".join(str(path) for path in files[:2]) + (" and more" if len(files) > 2 else "")
    return MissingWeights(
        f"no whole safetensors file at {names} ({error}); fetch or install it again", param="weights"
    )


def store(
    tensors: Mapping[str, Tensor], folder: Path, stem: str, *, shard_bytes: int = SHARD_BYTES
) -> tuple[Path, ...]:
    """Write a network as ``stem.safetensors``, or as numbered shards and their index when it is larger than one.

    Returns:
        The safetensors files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        path = folder / f"{stem}.safetensors"
        _save(shards[0], path)
        (folder / index_file(stem)).unlink(missing_ok=True)
        return (path,)
    names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _save(shard, folder / name)
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": weight_map}
    (folder / index_file(stem)).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return tuple(folder / name for name in names)


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        if shards[-1] and filled + _bytes(tensor) > limit:
            shards.append({})
            filled = 0
        shards[-1][key] = tensor
        filled += _bytes(tensor)
    return shards


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file that has its name only once it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(_owned(tensors), partial)
    partial.replace(path)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the format wants them: contiguous, each with storage of its own, as a row of a larger one has not."""
    return {
        key: tensor.contiguous() if tensor.untyped_storage().nbytes() == _bytes(tensor) else tensor.clone()
        for key, tensor in tensors.items()
    }


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
