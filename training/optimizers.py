"""The optimizer of a stage: AdamW alone, or Muon for the matrices of repeated blocks beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ultraflash.models.errors import BadConfig


class Optimizers:
    """Several optimizers of disjoint parameters, stepped as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = tuple(parts)
        self._peaks = [group["lr"] for group in self.param_groups]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for part in self._parts for group in part.param_groups]

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times the one that it began with."""
        for group, peak in zip(self.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update the parameters that have gradients."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a kept state, but no settings: those that this was made with stay in force.

        Raises:
            BadConfig: the state is of other optimizers.
        """
        states = state.get("parts", ())
        if len(states) != len(self._parts):
            raise BadConfig(
                "the checkpoint is of another choice of optimizer (muon_rate); set it back or use another --run-dir"
            )
        for part, kept in zip(self._parts, states, strict=True):
            settings = [
                {name: value for name, value in group.items() if name != "params"}
                for group in part.param_groups
            ]
            part.load_state_dict(kept)
            for group, own in zip(part.param_groups, settings, strict=True):
                group.update(own)


def make_optimizers(
    module: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_rate: float | None,
) -> Optimizers:
    """AdamW for every trainable parameter or, with ``muon_rate``, for all but the matrices of repeated blocks.

    Muon (Jordan et al., 2024) makes each update of a matrix orthogonal; its rates are scaled so that updates have the
    size that AdamW's have (Liu et al., Muon is Scalable for LLM Training, 2025).

    Raises:
        BadConfig: this torch has no Muon (it came with 2.9), or the module has no such matrices.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    matrices = {name: named[name] for name in _block_matrices(named)} if muon_rate is not None else {}
    rest = [parameter for name, parameter in named.items() if name not in matrices]
    adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    if muon_rate is None:
        return Optimizers([adamw])
    if not hasattr(torch.optim, "Muon"):
        raise BadConfig(
            "muon_rate needs torch 2.9 or newer; without: --set muon_rate=none", param="muon_rate"
        )
    if not matrices:
        raise BadConfig("this network has no matrices of repeated blocks for Muon", param="muon_rate")
    # Here and not above: it extends what an older torch does not have.
    from ultraflash.training.stacked_muon import StackedMuon

    muon = StackedMuon(
        list(matrices.values()), lr=muon_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return Optimizers([muon, adamw])


def _block_matrices(named: Mapping[str, nn.Parameter]) -> Iterator[str]:
    return (name for name, parameter in named.items() if parameter.ndim == 2 and "blocks" in name.split("."))
