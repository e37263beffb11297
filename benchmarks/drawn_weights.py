"""Weights drawn by rule from their names, so that golden tensors need no weights beside them.

The rule: a standard normal array from ``numpy.random.RandomState(crc32(name))``, scaled by what the name and the
shape say.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def draw_weight(key: str, shape: Sequence[int]) -> Tensor:
    """Return the float32 tensor that the rule gives a state-dict key of that shape."""
    w = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if "modulation" in key:
        w = w / math.sqrt(shape[-1])
    elif len(shape) >= 2:
        w = w / math.sqrt(math.prod(shape[1:]))
    elif key.endswith(".weight"):
        w = 1 + 0.1 * w
    else:
        w = 0.02 * w
    return torch.from_numpy(np.asarray(w, dtype=np.float32))


def draw_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return a whole state dict for the given keys and shapes."""
    return {key: draw_weight(key, shape) for key, shape in shapes.items()}


def fill(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Load drawn weights into a network, strictly.

    Raises:
        RuntimeError: the network's keys or shapes are not those of ``shapes``.
    """
    network.load_state_dict(draw_state(shapes), strict=True)
