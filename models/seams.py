"""Mending the seams between tokens of generated latents.

A transformer with little training draws every token nearly right, but neighbours not quite alike, which shows as a grid
over smooth parts. Each token and the ring of latents around it tell what it should have been.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, N = B*F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.least_squares import NormalEquations, with_constant


class SeamMender(nn.Module):
    """One linear map from a token's latents and the latents around it to a change of the token; starts at none."""

    def __init__(self, channels: int, patch: tuple[int, int, int]) -> None:
        """Build it.

        Args:
            channels: C.
            patch: latent frames, rows and columns of a token, which is square.
        """
        super().__init__()
        side = self.side = patch[1]
        self.conv = nn.Conv2d(channels, channels * side**2, side + 2, stride=side)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, latent_BCFHW: Tensor) -> Tensor:
        """Mend latents frame by frame; same shape and dtype. H and W divide into tokens."""
        batch = latent_BCFHW.shape[0]
        latent_NCHW = latent_BCFHW.transpose(1, 2).flatten(0, 1)
        around_NCHW = self.surrounded(latent_NCHW).to(self.conv.weight.dtype)
        change_NCHW = functional.pixel_shuffle(self.conv(around_NCHW), self.side)
        mended_NCHW = latent_NCHW + change_NCHW.to(latent_NCHW.dtype)
        return mended_NCHW.unflatten(0, (batch, -1)).transpose(1, 2)

    @staticmethod
    def surrounded(latent_NCHW: Tensor) -> Tensor:
        """Frames with their border repeated once, so that the tokens at it have a ring too: (N, C, H+2, W+2)."""
        return functional.pad(latent_NCHW, (1, 1, 1, 1), mode="replicate")

    @torch.no_grad()
    def fit(self, made_NCHW: Tensor, wanted_NCHW: Tensor, *, channels: int, ridge: float) -> None:
        """Take the map with the least squared error from generated frames to those that they should have been.

        Args:
            made_NCHW, wanted_NCHW: the same frames, float32.
            channels: how many of the first channels it changes. The others, which hold the finest detail, would
                mostly be made fainter: what cannot be foretold is best guessed as nothing.
            ridge: penalty of the weights, as a share of unit variance.
        """
        side = self.side
        x_NKL = functional.unfold(self.surrounded(made_NCHW), side + 2, stride=side)
        x_MK = x_NKL.transpose(1, 2).flatten(0, 1)
        error_NCHW = (wanted_NCHW - made_NCHW)[:, :channels]
        y_MD = functional.pixel_unshuffle(error_NCHW, side).flatten(2).transpose(1, 2).flatten(0, 1)
        sums = NormalEquations()
        sums.add(with_constant(x_MK), y_MD)
        solution_KD = sums.solve(ridge)
        outputs = y_MD.shape[1]
        for parameter, part in zip(
            self.conv.parameters(), (solution_KD[:-1].T, solution_KD[-1]), strict=True
        ):
            nn.init.zeros_(parameter)
            parameter[:outputs] = part.reshape(outputs, *parameter.shape[1:])
