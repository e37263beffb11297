"""Linear patches straight to the planes that a video encoder takes, on a CPU.

Luma and quartered chroma are linear in the colours, as these are in the latents. Made in one product with the latents
they are half as many numbers as RGB, and nothing is left to convert.

Shapes: B batch, n latent frames, h w latent rows and columns, P values of a patch in raster order, K numbers that it is
linear in, S rows and columns of a patch in a plane, M planes, Q = 4 * M * S * S values of a patch in the planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ultraflash.kernels.pixels import planes, quantize

# Bytes of mid grey, which the values of a patch are relative to.
_GREY_LUMA = 16 + 219 / 2
_GREY_CHROMA = 128.0
# Bytes are moved four at a time, in a third of the time.
_WORD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlanes:
    """The linear map of a patch to luma or to chroma.

    Attributes:
        weight_QK, bias_Q: to levels relative to those of mid grey, where 1 is 255 of them.
        grey: the byte of mid grey.
        shape: (frames, M, S, S) of a patch.
    """

    weight_QK: Tensor
    bias_Q: Tensor
    grey: float
    shape: tuple[int, int, int, int]

    def write(self, told_BnhwK: Tensor, words: Tensor) -> None:
        """Make bytes of the patches and put them into ``words``: int32 (B, n, frames, M, h, S, w, S/4)."""
        levels_BnhwQ = functional.linear(told_BnhwK, self.weight_QK, self.bias_Q)
        made = quantize(levels_BnhwQ, offset=self.grey / 255).view(torch.int32)
        frames, count, side, _ = self.shape
        words.copy_(made.unflatten(-1, (frames, count, side, -1)).permute(0, 1, 4, 5, 2, 6, 3, 7))


def luma_and_chroma(
    weight_PK: Tensor, bias_P: Tensor, patch: tuple[int, int, int]
) -> tuple[PatchPlanes, PatchPlanes]:
    """The two maps that follow from one to RGB, relative to mid grey; a ``patch`` is (frames, rows, columns)."""
    colours = torch.cat((weight_PK, bias_P[:, None]), dim=1).float().unflatten(0, (*patch, 3))
    frames, side, _ = patch
    # Every column of the map is a clip of pixels.
    luma, chroma = planes(colours.movedim(-1, 0).flatten(0, 1))
    dtype = weight_PK.dtype

    def of_patch(levels: Tensor, grey: float, count: int, side: int) -> PatchPlanes:
        columns_KQ = levels.reshape(colours.shape[-1], -1).div(255).to(dtype)
        return PatchPlanes(
            weight_QK=columns_KQ[:-1].T.contiguous(),
            bias_Q=columns_KQ[-1],
            grey=grey,
            shape=(frames, count, side, side),
        )

    return of_patch(luma, _GREY_LUMA, 1, side), of_patch(chroma, _GREY_CHROMA, 2, side // 2)


def empty_planes(
    shape: tuple[int, int, int, int], patch: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the frames of (B, n, h, w) latents.

    Returns:
        uint8 (B, n * frames, 3H/2, W), and views of its luma and its chroma as :meth:`PatchPlanes.write` wants them.
    """
    batch, n, h, w = shape
    frames, side, _ = patch
    pixels = h * w * side**2
    words = torch.empty((batch, n, frames, pixels * 3 // 2 // _WORD), dtype=torch.int32)
    luma, chroma = words.split((pixels // _WORD, pixels // 2 // _WORD), dim=-1)
    half = side // 2
    return (
        words.view(torch.uint8).view(batch, n * frames, h * side * 3 // 2, w * side),
        luma.unflatten(-1, (1, h, side, w, side // _WORD)),
        chroma.unflatten(-1, (2, h, half, w, half // _WORD)),
    )
