"""Low-rank weights on top of a network: added in once, or kept beside it with a scale that can change.

Shape legend: R rank, I O widths of what goes into and comes out of a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.checkpoints.naming import unwrapped
from ultraflash.models.errors import MissingWeights

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])(?:\.\w+)?\.weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRank:
    """The two matrices of one linear layer; what they add to its weight is ``up @ down`` times a scale."""

    down_RI: Tensor
    up_OR: Tensor


def low_rank_pairs(checkpoint: Mapping[str, Any], *, source: str) -> dict[str, LowRank]:
    """The matrices in a LoRA file as peft writes it, by the name of their layer.

    Raises:
        MissingWeights: a name that is neither, a half without the other, or halves of different rank.
    """
    inner = checkpoint.get("generator_lora", checkpoint)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in inner.items():
        match = _KEY.fullmatch(key)
        if match is None or not isinstance(tensor, Tensor):
            raise MissingWeights(f"{source} holds {key}, which is no half of a LoRA", param="weights")
        halves.setdefault(unwrapped(match["layer"]), {})[match["half"]] = tensor
    pairs = {}
    for layer, found in halves.items():
        if len(found) != 2 or found["A"].shape[0] != found["B"].shape[1]:
            raise MissingWeights(
                f"the two halves of {layer} in {source} do not fit together", param="weights"
            )
        pairs[layer] = LowRank(down_RI=found["A"], up_OR=found["B"])
    if not pairs:
        raise MissingWeights(f"{source} holds no LoRA; fetch the file again", param="weights")
    return pairs


def merged(
    tensors: Mapping[str, Tensor], pairs: Mapping[str, LowRank], *, alpha: float, scale: float, source: str
) -> dict[str, Tensor]:
    """Weights with ``scale * alpha / rank * up @ down`` added, in their own dtypes; float32 inside.

    Raises:
        MissingWeights: a layer that the network lacks, or that has another shape.
    """
    result = dict(tensors)
    for layer, pair in pairs.items():
        weight = tensors.get(f"{layer}.weight")
        shape = (pair.up_OR.shape[0], pair.down_RI.shape[1])
        if weight is None or tuple(weight.shape) != shape:
            found = "nothing" if weight is None else tuple(weight.shape)
            raise MissingWeights(
                f"{source} is for another network: {layer} is {found}, not {shape}", param="weights"
            )
        factor = scale * alpha / pair.down_RI.shape[0]
        change = pair.up_OR.float() @ pair.down_RI.float()
        result[f"{layer}.weight"] = (weight.float() + factor * change).to(weight.dtype)
    return result


class LowRankLinear(nn.Linear):
    """A linear layer with low-rank weights beside its own."""

    def __init__(self, linear: nn.Linear, pair: LowRank, factor: float) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        dtype, device = linear.weight.dtype, linear.weight.device
        self.lora_down = nn.Parameter(pair.down_RI.to(device, dtype), requires_grad=False)
        self.lora_up = nn.Parameter(pair.up_OR.to(device, dtype), requires_grad=False)
        self.factor = factor
        self.scale = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        change = functional.linear(functional.linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + (self.scale * self.factor) * change


class LiveLora:
    """Low-rank weights beside a network's own, with one scale for all: 1 as trained, 0 for none.

    They belong to the network, hence to all streams that it runs.
    """

    def __init__(
        self, net: nn.Module, pairs: Mapping[str, LowRank], *, alpha: float, scale: float, source: str
    ) -> None:
        """Put the layers in place.

        Raises:
            MissingWeights: a layer that the network lacks, or that has another shape.
        """
        layers = dict(net.named_modules())
        self._layers: list[LowRankLinear] = []
        for name, pair in pairs.items():
            linear = layers.get(name)
            shape = (pair.up_OR.shape[0], pair.down_RI.shape[1])
            if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != shape:
                raise MissingWeights(
                    f"{source} is for another network: no layer {name} of {shape}", param="weights"
                )
            self._layers.append(LowRankLinear(linear, pair, alpha / pair.down_RI.shape[0]))
        for name, layer in zip(pairs, self._layers, strict=True):
            net.set_submodule(name, layer)
        self.scale = scale

    @property
    def scale(self) -> float:
        """Factor of what the low-rank weights add."""
        return self._layers[0].scale

    @scale.setter
    def scale(self, value: float) -> None:
        for layer in self._layers:
            layer.scale = value


def without_live_lora(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as if what lies beside its layers had been added into them at its present scale."""
    tensors = net.state_dict()
    for name, layer in net.named_modules():
        if isinstance(layer, LowRankLinear):
            change = tensors.pop(f"{name}.lora_up").float() @ tensors.pop(f"{name}.lora_down").float()
            weight = tensors[f"{name}.weight"]
            tensors[f"{name}.weight"] = (weight.float() + layer.scale * layer.factor * change).to(
                weight.dtype
            )
    return tensors
