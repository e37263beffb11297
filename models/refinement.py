"""The one step of super-resolution, as streams and training run it.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.models.dit import Attend, CausalDiT, TextContext
from ultraflash.models.prediction import clean_estimate
from ultraflash.models.preset import SuperResolutionConfig
from ultraflash.models.schedule import TRAIN_STEPS


def refine(
    net: CausalDiT,
    config: SuperResolutionConfig,
    condition_BCFHW: Tensor,
    noise_BCFHW: Tensor | None,
    text: TextContext,
    frame_positions_F: Tensor,
    attend: Attend,
) -> Tensor:
    """The clean latents (B, C, F, H, W), float32, that the network makes of upsampled ones.

    Args:
        net: of the sizes in ``config.dit``.
        condition_BCFHW: upsampled latents, float32.
        noise_BCFHW: normal, of the same shape; None where ``config.noise`` is off.
        text, frame_positions_F, attend: as in :meth:`CausalDiT.forward`.

    Raises:
        ValueError: noise that the network does not take, or none where it does.
    """
    if (noise_BCFHW is not None) != config.noise:
        raise ValueError("noise is given to the networks that take it, and to no others")
    device = condition_BCFHW.device
    told = condition_BCFHW if noise_BCFHW is None else torch.cat((noise_BCFHW, condition_BCFHW), dim=1)
    timestep = torch.full((condition_BCFHW.shape[0], 1), config.timestep, device=device)
    return clean_estimate(
        net(told, timestep, text, frame_positions_F, attend),
        prediction=config.prediction,
        # A change is added to the condition, whatever the noise.
        noisy=condition_BCFHW if noise_BCFHW is None else noise_BCFHW,
        sigma=config.timestep / TRAIN_STEPS,
        condition=condition_BCFHW,
    )
