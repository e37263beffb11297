"""Latents marred as the generator mars them: put back into noise and denoised by it.

What super-resolution has to mend is not camera noise but a generator's mistakes: patches that disagree, lost detail,
things that are nearly what they should be. One denoising step from part of the noise makes just those, and leaves the
picture otherwise as it was. The multi-step generator takes it, which knows every noise level: a few-step one that has
learned long enough knows its own steps alone, and draws pictures without contrast from any other.

Shapes: C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.preset import BaseConfig
from ultraflash.models.schedule import add_noise
from ultraflash.models.weights import load_file
from ultraflash.training.base import TEACHER_FILE
from ultraflash.training.rollout import Roller


def draw_sigma(sigmas: tuple[float, float], generator: torch.Generator) -> float:
    """A noise level to remake from, evenly drawn between the least and the largest."""
    least, most = sigmas
    return least + (most - least) * float(torch.rand((), generator=generator))


def teacher_file(weights: Path) -> Path:
    """The multi-step generator in a run's ``weights``. Raises MissingWeights: it is trained, and does not ship."""
    path = weights / TEACHER_FILE
    if not path.is_file():
        raise MissingWeights(f"no multi-step generator in {weights}; make it with: ultraflash train base")
    return path


class Remaker:
    """The multi-step generator, used to mar whole pictures."""

    def __init__(self, base: BaseConfig, weights: Path) -> None:
        """Load it from ``weights``. Raises MissingWeights where it is not there."""
        self._base = base
        self._net = CausalDiT(base.dit)
        load_file(self._net, teacher_file(weights))
        self._net.eval()

    def __call__(
        self, latent_CFHW: Tensor, text_XW: Tensor, sigma: float, generator: torch.Generator
    ) -> Tensor:
        """Latents of the whole picture from noise level ``sigma``, block after block, each behind the marred past.

        Raises:
            BadConfig: the frames are no whole blocks.
        """
        size = self._base.block_frames
        if latent_CFHW.shape[1] % size:
            raise BadConfig(f"{latent_CFHW.shape[1]} latent frames are no whole blocks of {size}")
        stream = Roller(self._net, self._base, text_XW[None].float())
        made = []
        for block in latent_CFHW[None].split(size, dim=2):
            noise = torch.randn(block.shape, generator=generator)
            clean = stream.clean(add_noise(block, noise, sigma), sigma)
            stream.commit(clean)
            made.append(clean[0])
        return torch.cat(made, dim=1)
