"""What a stream's state depends on, in a few bytes: the preset, the weights, the number type and how they are run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ultraflash.models.errors import ForeignSnapshot
from ultraflash.models.loading import Networks
from ultraflash.models.preset import Preset
from ultraflash.models.toml_table import to_table

# Neither words for people, nor where files lie, nor what every stream carries itself. Of `execution`, see `Identity`.
_NO_MATTER = (
    "description",
    "weights",
    "sources",
    "max_prompt_chars",
    "default_size",
    "dynamic_cache",
    "execution",
    "prompt_change",
)
_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a stream was made with; only the same can go on with it.

    Attributes:
        preset: name of the preset.
        preset_digest, weights_digest: of :func:`preset_digest` and :func:`weights_digest`.
        dtype: of the matrix products.
        blocks: ``eager`` or ``compiled``. Compiled sums are rounded otherwise; overlap changes no bit, and so is not
            part of it.
    """

    preset: str
    preset_digest: str
    weights_digest: str
    dtype: str
    blocks: str = "eager"

    def check(self, other: Identity) -> None:
        """Raise ForeignSnapshot, which says what differs, unless ``other`` is the same."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        if ours == theirs:
            return
        differing = ", ".join(
            f"{name.replace('_digest', '')} ({theirs[name][:16]}, here {ours[name][:16]})"
            for name in ("preset", "preset_digest", "weights_digest", "dtype", "blocks")
            if ours[name] != theirs[name]
        )
        raise ForeignSnapshot(
            f"the snapshot was made with another {differing}; restore it where it was made, or open a new stream"
        )


def preset_digest(preset: Preset) -> str:
    """SHA-256 of everything in a preset that shapes a stream.

    What is off by being None is left out, so that a new such switch leaves older streams what they are.
    """
    upsampler = {factor: to_table(config) for factor, config in preset.upsampler.items()}
    tables = {**to_table(preset), "upsampler": upsampler}
    table = {key: value for key, value in tables.items() if key not in _NO_MATTER}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def weights_digest(networks: Mapping[str, nn.Module]) -> str:
    """SHA-256 of the names, shapes, types and 64 evenly spread values of every tensor.

    Training changes all tensors, so a sample tells weights apart, for billions of them in milliseconds.
    """
    digest = hashlib.sha256()
    for part, net in sorted(networks.items()):
        for name, tensor in net.state_dict().items():
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity_of(preset: Preset, networks: Networks, dtype: torch.dtype) -> Identity:
    """The identity of a cascade. The text encoder is not part of the weights: the preset says which it is."""
    return Identity(
        preset=preset.name,
        preset_digest=preset_digest(preset),
        weights_digest=weights_digest(networks.by_part),
        dtype=str(dtype),
        blocks="compiled" if preset.execution.compile else "eager",
    )
