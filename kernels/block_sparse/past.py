"""What block-sparse attention sees of earlier calls, where a cache holds it.

Shape legend: B batch, R blocks that the cache has room for, C cached blocks, K new ones, T tokens of a block, N heads,
D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.quantization import dequantize


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSpan:
    """Which blocks of a ring count: `count` of them from place `first` on, oldest first, round its end."""

    first: int
    count: int

    def runs(self, room: int) -> list[slice]:
        """Their places in a ring of `room` blocks, as one run or as two, oldest first.

        Raises:
            ValueError: such a ring does not have them.
        """
        if not (0 <= self.first < max(room, 1) and 0 <= self.count <= room):
            raise ValueError(
                f"a ring of {room} blocks has no {self.count} blocks from place {self.first} on; "
                f"give a first place in it and at most {room} blocks"
            )
        end = self.first + self.count
        if end <= room:
            return [slice(self.first, end)]
        return [slice(self.first, room), slice(0, end - room)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastBlocks:
    """Keys and values of earlier blocks.

    Attributes:
        k_BRTND, v_BRTND: in any floating dtype, or int8 with scales.
        k_scale_BRTN, v_scale_BRTN: float32, or None where keys and values are not quantized.
        span: the blocks that count; None for all of them, in the order in which they lie.
    """

    k_BRTND: Tensor
    v_BRTND: Tensor
    k_scale_BRTN: Tensor | None = None
    v_scale_BRTN: Tensor | None = None
    span: RingSpan | None = None

    @property
    def counted(self) -> RingSpan:
        """The blocks that count."""
        return span_of(self.k_BRTND, self.span)

    @property
    def scales(self) -> tuple[Tensor, Tensor] | None:
        """Scales of keys and values, None where there are none."""
        if self.k_scale_BRTN is None or self.v_scale_BRTN is None:
            return None
        return self.k_scale_BRTN, self.v_scale_BRTN

    def check(self, batch: int, tokens: int, heads: int, size: int) -> None:
        """Refuse blocks of another shape, 8-bit blocks without scales, and a span that the ring does not have.

        Raises:
            ValueError: saying what was expected.
        """
        room = self.k_BRTND.shape[1]
        expected = (batch, room, tokens, heads, size)
        for x in (self.k_BRTND, self.v_BRTND):
            if tuple(x.shape) != expected:
                raise ValueError(f"expected cached keys and values {expected}, got {tuple(x.shape)}")
        quantized = self.k_BRTND.dtype == torch.int8
        for scale in (self.k_scale_BRTN, self.v_scale_BRTN):
            if quantized != (scale is not None) or (
                scale is not None and tuple(scale.shape) != expected[:-1]
            ):
                raise ValueError(
                    f"int8 keys and values come with scales {expected[:-1]}, others without; "
                    f"got {self.k_BRTND.dtype} and {None if scale is None else tuple(scale.shape)}"
                )
        self.counted.runs(room)

    def parts(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values run by run in a floating dtype; views where they have it already."""
        runs = self.counted.runs(self.k_BRTND.shape[1])
        return (
            [widened(self.k_BRTND, self.k_scale_BRTN, run, dtype) for run in runs],
            [widened(self.v_BRTND, self.v_scale_BRTN, run, dtype) for run in runs],
        )

    def dense(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (B, C, T, N, D) in a floating dtype, oldest first."""
        keys, values = (parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in self.parts(dtype))
        return keys, values


def span_of(cached_BRTND: Tensor | None, span: RingSpan | None) -> RingSpan:
    """The span given, or that of all cached blocks, or of none where there are none."""
    return span or RingSpan(first=0, count=0 if cached_BRTND is None else cached_BRTND.shape[1])


def widened(x_BRTND: Tensor, scale_BRTN: Tensor | None, run: slice, dtype: torch.dtype) -> Tensor:
    """The blocks of one run in `dtype`: a view where they have it already."""
    part = x_BRTND[:, run]
    return part.to(dtype) if scale_BRTN is None else dequantize(part, scale_BRTN[:, run], dtype)
