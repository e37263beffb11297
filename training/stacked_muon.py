"""Muon that orthogonalizes all matrices of a shape at once.

torch's own takes them one by one: over thirty small kernels for each of a transformer's many matrices, which a GPU runs
faster than they can be launched.

Shapes: P matrices of one shape, M N rows and columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ultraflash.models.device import fastest_dtype


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon`, with its settings, its state and, but for rounding, its updates."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the matrices that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape[matrix.shape].append(matrix)
            for matrices in of_shape.values():
                self._update(matrices, group)
        return loss

    def _update(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        gradients = [matrix.grad for matrix in matrices]
        momenta = [self._momentum(matrix) for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        updates_PMN = orthogonal(
            torch.stack(list(ahead)), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * _rate_factor(group["adjust_lr_fn"], matrices[0].shape)
        torch._foreach_add_(matrices, updates_PMN.to(matrices[0].dtype).unbind(), alpha=-rate)

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonal(
    matrices_PMN: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Each matrix with its singular values brought near 1, by Newton and Schulz's iteration (Jordan et al., Muon,
    2024); in bfloat16, or in float32 where that is faster.

    Args:
        matrices_PMN: the matrices.
        coefficients: of the quintic that the singular values go through, for the powers 1, 3 and 5.
        steps: how often they do.
        eps: smallest norm that a matrix is divided by.
    """
    linear, cubic, quintic = coefficients
    x_PMN = matrices_PMN.to(fastest_dtype(matrices_PMN.device))
    tall = x_PMN.shape[1] > x_PMN.shape[2]
    if tall:
        x_PMN = x_PMN.mT
    x_PMN = x_PMN / x_PMN.norm(dim=(1, 2), keepdim=True).clamp_min(eps)
    for _ in range(steps):
        gram_PMM = x_PMN @ x_PMN.mT
        factor_PMM = torch.baddbmm(gram_PMM, gram_PMM, gram_PMM, beta=cubic, alpha=quintic)
        x_PMN = torch.baddbmm(x_PMN, factor_PMM, x_PMN, beta=linear)
    return x_PMN.mT if tall else x_PMN


def _rate_factor(adjust: str | None, shape: torch.Size) -> float:
    rows, columns = shape
    if adjust == "match_rms_adamw":
        return float(0.2 * max(rows, columns) ** 0.5)
    if adjust in (None, "original"):
        return float(max(1.0, rows / columns) ** 0.5)
    raise ValueError(f"adjust_lr_fn is None, original or match_rms_adamw, not {adjust!r}")
