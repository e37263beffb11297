"""What block-sparse attention sees of earlier calls.

Shape legend: B batch, C cached key blocks, T tokens of a block, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.quantization import dequantize


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastBlocks:
    """Keys and values of earlier blocks, where the cache holds them.

    Attributes:
        k_BCTND, v_BCTND: dtype of the queries, or int8 with scales.
        k_scale_BCTN, v_scale_BCTN: float32, or None where keys and values are not quantized.
    """

    k_BCTND: Tensor
    v_BCTND: Tensor
    k_scale_BCTN: Tensor | None = None
    v_scale_BCTN: Tensor | None = None

    def check(self, batch: int, tokens: int, heads: int, size: int) -> None:
        """Refuse blocks of another shape, and 8-bit blocks without scales.

        Raises:
            ValueError: saying what was expected.
        """
        expected = (batch, self.k_BCTND.shape[1], tokens, heads, size)
        for x in (self.k_BCTND, self.v_BCTND):
            if tuple(x.shape) != expected:
                raise ValueError(f"expected cached keys and values {expected}, got {tuple(x.shape)}")
        quantized = self.k_BCTND.dtype == torch.int8
        for scale in (self.k_scale_BCTN, self.v_scale_BCTN):
            if quantized != (scale is not None) or (
                scale is not None and tuple(scale.shape) != expected[:-1]
            ):
                raise ValueError(
                    f"int8 keys and values come with scales {expected[:-1]}, others without; "
                    f"got {self.k_BCTND.dtype} and {None if scale is None else tuple(scale.shape)}"
                )

    def dense(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values in a floating dtype."""
        if self.k_scale_BCTN is None or self.v_scale_BCTN is None:
            return self.k_BCTND, self.v_BCTND
        return (
            dequantize(self.k_BCTND, self.k_scale_BCTN, dtype),
            dequantize(self.v_BCTND, self.v_scale_BCTN, dtype),
        )
