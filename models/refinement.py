"""Super-resolution: its configuration, and its one step as streams and training run it.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.block_sparse import SelectionRule
from ultraflash.models.dit import Attend, CausalDiT, DiTConfig, TextContext
from ultraflash.models.errors import BadConfig
from ultraflash.models.kv_store import KvStorage, check_storage
from ultraflash.models.prediction import Prediction, clean_estimate
from ultraflash.models.schedule import TRAIN_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolutionConfig:
    """One-step super-resolution: one network, or several of one shape.

    Args:
        dit: the network; its input is noise and condition together, or the condition alone. It does not mend seams.
        group_blocks: base blocks refined in one call.
        timestep: the one noise level, in (0, 1000].
        block: latent frames, token rows and token columns of an attention block.
        cached_blocks: temporal blocks kept from earlier calls.
        rule: which key blocks a query block sees.
        prediction: what the network's output means, see :mod:`ultraflash.models.prediction`.
        noise: whether the input begins with noise, as the official weights want, which were distilled from a diffusion
            model. A network that is trained to hit the picture in one step learns nothing from it. Without noise there
            is no flow: the prediction is a change.
        kv: how the cache keeps keys and values, see :mod:`ultraflash.models.kv_store`.
        call_frames: latent frames of one call once the cache holds something; None for the whole group. The public
            script refines the first group at once and later ones two frames at a time, which the weights expect.
        networks: which factors of upsampling each network serves, such as ``((2,), (4, 6))``; None or empty where one
            network serves all.
    """

    dit: DiTConfig
    group_blocks: int
    timestep: float
    block: tuple[int, int, int]
    cached_blocks: int
    rule: SelectionRule
    prediction: Prediction = "flow"
    noise: bool = True
    kv: KvStorage = "model"
    call_frames: int | None = None
    networks: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        check_storage(self.kv)
        self._check_networks()
        if self.group_blocks < 1 or self.cached_blocks < 0:
            raise BadConfig("group_blocks starts at 1, cached_blocks at 0")
        if len(self.block) != 3 or min(self.block) < 1:
            raise BadConfig(f"block is three positive numbers, not {list(self.block)}", param="block")
        if self.dit.mend_seams:
            raise BadConfig("only the base's seams are mended, not those of sr.dit", param="mend_seams")
        if self.call_frames is not None and self.call_frames < 1:
            raise BadConfig(f"call_frames starts at 1, not {self.call_frames}", param="call_frames")
        if not 0 < self.timestep <= TRAIN_STEPS:
            raise BadConfig(f"timestep lies in (0, {TRAIN_STEPS}], not {self.timestep}", param="timestep")
        if self.prediction not in ("flow", "change"):
            raise BadConfig(
                f"super-resolution predicts flow or change, not {self.prediction!r}", param="prediction"
            )
        if not self.noise and self.prediction == "flow":
            raise BadConfig('without noise there is no flow to predict, but a "change"', param="prediction")

    def _check_networks(self) -> None:
        groups = self.networks or ()
        well_formed = isinstance(groups, tuple) and all(
            isinstance(group, tuple) and group for group in groups
        )
        factors = [factor for group in groups for factor in group] if well_formed else []
        if not well_formed or len(set(factors)) < len(factors) or not all(map(_is_factor, factors)):
            raise BadConfig(
                "networks is a list of lists of factors, whole numbers from 1 on, and no factor is in two of them, "
                f"not {json.dumps(self.networks)}",
                param="sr.networks",
            )

    def part(self, factor: int) -> str | None:
        """Name of the network that refines what was enlarged by a factor: ``sr``, or ``sr_x`` and the first factor that
        the network serves. None where no network serves it."""
        if not self.networks:
            return "sr"
        return next((f"sr_x{group[0]}" for group in self.networks if factor in group), None)


def _is_factor(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


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
