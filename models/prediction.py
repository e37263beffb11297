"""What a network's output means.

``flow``
    noise - clean, as in the official checkpoints.
``clean``
    the clean latent itself. A token of a small network has hardly more channels than the noise in it; asked for the
    flow, it spends them on carrying that noise from input to output (Li and He, Back to Basics: Let Denoising
    Generative Models Denoise, 2025).
``change``
    what to add to the condition, for super-resolution: a network that outputs nothing changes nothing.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ultraflash.models.schedule import clean_from_flow

Prediction = Literal["flow", "clean", "change"]


def clean_estimate(
    output: Tensor,
    *,
    prediction: Prediction,
    noisy: Tensor,
    sigma: float | Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """The clean latent that a network's output stands for.

    Args:
        output: of the network, float32.
        prediction: what it means.
        noisy: the network's noisy input.
        sigma: its noise level, a number or broadcasting against it.
        condition: what super-resolution starts from; only ``change`` needs it.
    """
    if prediction == "clean":
        return output
    if prediction == "change":
        if condition is None:
            raise ValueError("a predicted change needs the condition that it changes")
        return condition + output
    return clean_from_flow(noisy, output, sigma)
