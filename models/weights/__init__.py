"""Strict loading of safetensors weights into networks, and the names of the files that make a cascade."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ultraflash.models.errors import MissingWeights

SHIPPED = Path(__file__).parent

MANIFEST = "SHA256SUMS"
BASE_FILE = "base.safetensors"
ENCODER_FILE = "encoder.safetensors"
DECODER_FILE = "decoder.safetensors"

_NEXT_STEP = "install the package again, or make weights with: ultraflash train"


def upsampler_file(factor: int) -> str:
    """Name of the weights of the upsampler that enlarges by ``factor``."""
    return f"upsampler_x{factor}.safetensors"


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path) -> Path:
    """Write the digests of all safetensors files of ``folder`` to SHA256SUMS, as ``sha256sum -c`` reads them."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
    manifest = folder / MANIFEST
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def verify_manifest(folder: Path) -> None:
    """Compare the files of ``folder`` with its SHA256SUMS, if it has one.

    Raises:
        MissingWeights: a file is absent or has other content.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    for line in manifest.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise MissingWeights(
                f"{path} is not the file that {manifest} lists; fetch or train it again", param="weights"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in their stored dtype.

    Raises:
        MissingWeights: no file there, or one that is cut short or no safetensors.
    """
    if not path.is_file():
        raise MissingWeights(f"no weights at {path}; {_NEXT_STEP}", param="weights")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise MissingWeights(
            f"{path} is no whole safetensors file ({error}); {_NEXT_STEP}", param="weights"
        ) from error


def load_strict(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy ``tensors`` into ``net`` in its own dtypes.

    Args:
        net: the network.
        tensors: by parameter or buffer name.
        source: where they came from, for the message.

    Raises:
        MissingWeights: a tensor is absent, unknown or of another shape; the message names it.
    """
    check_fit(net, tensors, source=source)
    wanted = net.state_dict()
    net.load_state_dict({key: value.to(wanted[key].dtype) for key, value in tensors.items()})


def check_fit(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Raise MissingWeights when a tensor is absent, unknown or of another shape. ``net`` may be on the meta device."""
    wanted = net.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(tensors.keys() - wanted.keys())
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape
    ]
    if missing or extra or wrong:
        parts = [f"lacks {missing[:4]} ({len(missing)} in all)"] if missing else []
        parts += [f"has unknown {extra[:4]} ({len(extra)} in all)"] if extra else []
        parts += wrong[:4]
        raise MissingWeights(
            f"{source} does not fit {type(net).__name__}: {'; '.join(parts)}. It was made with another configuration.",
            param="weights",
        )


def assign_strict(net: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Like :func:`load_strict`, but ``net`` takes the tensors themselves, wherever it and they are: nothing is copied.

    It is how a network on the meta device comes to its weights.
    """
    check_fit(net, tensors, source=source)
    net.load_state_dict(dict(tensors), assign=True)


def load_file(net: nn.Module, path: Path) -> None:
    """:func:`load_strict` from a safetensors file."""
    load_strict(net, read_tensors(path), source=str(path))


def stored_dtype(value: Tensor) -> torch.dtype:
    """float16 for what is large, the tensor's own dtype for vectors, where range matters more than bytes."""
    return torch.float16 if value.is_floating_point() and value.dim() > 1 else value.dtype
