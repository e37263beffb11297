"""What a stream's state depends on, in a few bytes: the preset, the weights and the number type."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import torch
from torch import nn

from ultraflash.models.preset import Preset

# Neither words for people, nor where files lie, nor what every stream carries itself.
_NO_MATTER = ("description", "weights", "sources", "max_prompt_chars", "default_size", "dynamic_cache")
_SAMPLES = 64


def preset_digest(preset: Preset) -> str:
    """SHA-256 of everything in a preset that shapes a stream."""
    table = {key: value for key, value in dataclasses.asdict(preset).items() if key not in _NO_MATTER}
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
