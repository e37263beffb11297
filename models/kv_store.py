"""Where caches keep keys and values: in the model's own type, in bfloat16, or as int8 with a scale per token and head.

Shapes: B batch, P places (tokens of a window, or blocks of tokens), N heads, D head size; ``...`` stands for axes
between place and head that a cache may have.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig

KvStorage = Literal["model", "bf16", "int8"]
"""``model`` keeps what the network computes in; ``int8`` halves bfloat16, for an error of 1/254 of a head's largest
value. Whoever does not read what is kept as it is makes a copy in the model's type."""

_LEVELS = 127


def check_storage(storage: str) -> None:
    """Raise BadConfig unless ``storage`` is one of ``KvStorage``."""
    if storage not in get_args(KvStorage):
        raise BadConfig(f"keys and values are kept as {get_args(KvStorage)}, not {storage!r}", param="kv")


def head_bytes(storage: KvStorage, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that the key (or value) of one token and head takes."""
    if storage == "int8":
        return head_dim + torch.float32.itemsize
    return head_dim * (torch.bfloat16 if storage == "bf16" else dtype).itemsize


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 over the last axis: (int8 of the same shape, float32 scales with a last axis of 1)."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True) / _LEVELS
    levels = torch.where(scale > 0, x / scale, 0.0).round_()
    return levels.to(torch.int8), scale


class KvStore:
    """Two buffers (layers, B, P, ..., N, D), allocated once, read and written by layer and range of places.

    Args:
        shape: of the buffers.
        storage: how values are kept.
        dtype: what the network computes in, and what is read.
        device: of the buffers.
    """

    def __init__(
        self, shape: tuple[int, ...], *, storage: KvStorage, dtype: torch.dtype, device: torch.device
    ) -> None:
        check_storage(storage)
        self.shape = shape
        self._storage = storage
        self._dtype = dtype
        kept = {"model": dtype, "bf16": torch.bfloat16, "int8": torch.int8}[storage]
        self._parts = {name: torch.zeros(shape, dtype=kept, device=device) for name in ("keys", "values")}
        if storage == "int8":
            for name in ("key_scales", "value_scales"):
                self._parts[name] = torch.zeros((*shape[:-1], 1), dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(part.numel() * part.element_size() for part in self._parts.values())

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (B, places, ..., N, D) at the places from ``start`` on."""
        end = start + keys.shape[1]
        for name, scales, x in (("keys", "key_scales", keys), ("values", "value_scales", values)):
            if self._storage == "int8":
                levels, scale = quantize(x)
                self._parts[name][layer, :, start:end] = levels
                self._parts[scales][layer, :, start:end] = scale
            else:
                self._parts[name][layer, :, start:end] = x

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, end - start, ..., N, D) in the model's type; no copy where they are kept in it."""
        return (
            self._read("keys", "key_scales", layer, start, end),
            self._read("values", "value_scales", layer, start, end),
        )

    def _read(self, name: str, scales: str, layer: int, start: int, end: int) -> Tensor:
        kept = self._parts[name][layer, :, start:end]
        if self._storage == "int8":
            return (kept * self._parts[scales][layer, :, start:end]).to(self._dtype)
        return kept.to(self._dtype)

    def kept(self, layer: int, end: int | None = None) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """The places up to ``end``, or all, of one layer as they are kept: keys, values, and of int8 the scales of both
        without their last axis. No copy.
        """
        keys, values = (self._parts[name][layer, :, :end] for name in ("keys", "values"))
        if self._storage == "int8":
            key_scales, value_scales = (
                self._parts[name][layer, :, :end, ..., 0] for name in ("key_scales", "value_scales")
            )
            return keys, values, (key_scales, value_scales)
        return keys, values, None

    def tensors(self, *runs: slice) -> dict[str, Tensor]:
        """The places of all runs of every buffer, as they are kept. No copy of a single run."""
        return {
            name: part[:, :, runs[0]] if len(runs) == 1 else torch.cat([part[:, :, run] for run in runs], 2)
            for name, part in self._parts.items()
        }

    def restore(self, tensors: dict[str, Tensor], end: int) -> None:
        """Put back what ``tensors`` gave."""
        for name, part in self._parts.items():
            part[:, :, :end] = tensors[name]

    def spare(self, places: int) -> dict[str, Tensor]:
        """Room for the content of so many places of every buffer, as it is kept."""
        return {name: torch.empty_like(part[:, :, :places]) for name, part in self._parts.items()}

    def keep(self, start: int, end: int, spare: dict[str, Tensor], at: int) -> None:
        """Copy the places ``start`` .. ``end`` to those of ``spare`` from ``at`` on."""
        for name, part in self._parts.items():
            spare[name][:, :, at : at + end - start] = part[:, :, start:end]

    def paste(self, start: int, end: int, spare: dict[str, Tensor], at: int) -> None:
        """Put back what ``keep`` copied."""
        for name, part in self._parts.items():
            part[:, :, start:end] = spare[name][:, :, at : at + end - start]

    def swap(self, start: int, end: int, spare: dict[str, Tensor], at: int) -> None:
        """Exchange the places ``start`` .. ``end`` with those of ``spare`` from ``at`` on, a layer at a time."""
        for name, part in self._parts.items():
            for here, there in zip(part, spare[name], strict=True):
                mine = here[:, start:end].clone()
                here[:, start:end] = there[:, at : at + end - start]
                there[:, at : at + end - start] = mine

    def to(self, device: torch.device) -> None:
        """Move all buffers."""
        self._parts = {name: part.to(device) for name, part in self._parts.items()}
