"""Where a batch lies, and what its device computes in: data are drawn on the CPU, networks train on the device of their
stage."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ultraflash.models.device import fastest_dtype

T = TypeVar("T")


def on_device(value: T, device: torch.device | str) -> T:
    """A batch with its tensors on ``device``: a tensor, a dataclass or a dict of them; anything else is left as it is.

    The copy does not wait for a GPU, and what lies there already is not copied.

    Raises:
        TypeError: a list or a tuple of tensors, which would be left behind.
    """
    moved: Any = value
    if isinstance(value, Tensor):
        moved = _moved(value, torch.device(device))
    elif isinstance(value, dict):
        moved = {name: on_device(part, device) for name, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: on_device(getattr(value, field.name), device) for field in fields(value)}
        moved = replace(value, **parts)
    elif isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        raise TypeError("tensors of a batch go to a device in a dataclass or a dict, not in a list or tuple")
    result: T = moved
    return result


def bfloat16_products(device: torch.device | str, *, wanted: bool) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 where that is wanted and faster: a CPU that has to imitate it takes
    ten to sixty times as long as in float32."""
    device = torch.device(device)
    enabled = wanted and fastest_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Out of pageable memory a copy waits until the GPU has done all that it was given before.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
