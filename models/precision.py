"""Number types of the large linear layers of the transformers: their own, or eight bits.

Most arithmetic of a pass is in the linear layers of its attention and MLP. In eight bits they take half the memory of
bfloat16 and run faster where the processor multiplies such numbers. Embeddings, norms, modulation and heads stay as
they are, and so do keys and values of the prompt, which are made once per prompt.

Shape legend: I O widths of what goes into and comes out of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from ultraflash.models.device import fastest_dtype
from ultraflash.models.dit import Block, CausalDiT
from ultraflash.models.errors import BadConfig, MissingExtra, UnsupportedPrecision

LinearPrecision = Literal["auto", "native", "int8", "fp8"]
"""``native`` is the type that the cascade runs in. ``int8`` is for a CPU: weights have a scale per output, inputs one
per call, sums are exact. ``auto`` is int8 where a CPU has nothing but float32 otherwise, and native anywhere else, see
:func:`choose_linears`. ``fp8`` is for a GPU from sm_89 on: float8 (e4m3) with a scale per output and per token."""

_INPUT_LEVELS = 127
_CENTRE = 128
_TINY = 1e-30
_FP8_CAPABILITY = (8, 9)
_FP8_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionConfig:
    """What a preset says of number types.

    Args:
        linears: of the large linear layers of all transformers, see :data:`LinearPrecision`.
    """

    linears: LinearPrecision = "native"

    def __post_init__(self) -> None:
        if self.linears not in get_args(LinearPrecision):
            raise BadConfig(
                f"linears are {', '.join(get_args(LinearPrecision))}, not {self.linears!r}",
                param="precision.linears",
            )

    def check_widths(self, part: str, *widths: int) -> None:
        """Raise BadConfig where the kernels of the number type cannot multiply matrices of these widths."""
        if self.linears == "fp8" and any(width % _FP8_MULTIPLE for width in widths):
            raise BadConfig(
                f"fp8 linears want widths that {_FP8_MULTIPLE} divides, and those of {part} are {list(widths)}",
                param="precision.linears",
            )


def choose_linears(config: PrecisionConfig, device: torch.device) -> PrecisionConfig:
    """The settings with a number type in place of ``auto``, for a cascade that nobody asked for another dtype."""
    if config.linears != "auto":
        return config
    slow = device.type == "cpu" and fastest_dtype(device) == torch.float32 and weight_levels()
    return PrecisionConfig(linears="int8" if slow else "native")


def weight_levels() -> int:
    """Largest level of a weight in int8 on this CPU; 0 where it has no products of such numbers.

    VNNI sums products in 32 bits. AVX2 first sums two of them in 16, which holds those of inputs up to 255 and weights
    up to 63; of larger ones the sum would be cut off without a word.
    """
    capabilities = torch.cpu.get_capabilities()
    return 127 if capabilities.get("avx512_vnni") else 63 if capabilities.get("avx2") else 0


def check_precision(linears: LinearPrecision, *, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what a device cannot compute, before anything is loaded.

    Raises:
        UnsupportedPrecision: it cannot, or not beside ``dtype``, that of the other matrix products.
        MissingExtra: torchao is not installed.
    """
    if linears == "int8" and (device.type != "cpu" or not weight_levels()):
        raise UnsupportedPrecision(
            f"int8 linears want an x86 CPU with AVX2 or later, and {device} is none; "
            'set precision.linears to "native", or on a GPU from sm_89 on to "fp8"',
            param="precision.linears",
        )
    if linears != "fp8":
        return
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < _FP8_CAPABILITY:
        found = "this is no GPU" if capability is None else f"this is sm_{capability[0]}{capability[1]}"
        raise UnsupportedPrecision(
            f"fp8 linears want a GPU from sm_89 on (Ada, Hopper or later), and {found}; "
            'set precision.linears to "native"',
            param="precision.linears",
        )
    if dtype != torch.bfloat16:
        raise UnsupportedPrecision(
            f"fp8 linears go with bfloat16 for the rest, not {dtype}", param="precision.linears"
        )
    if find_spec("torchao") is None:
        raise MissingExtra("fp8 linears want torchao; install it with: pip install 'ultraflash[fp8]'")


def large_linears(net: CausalDiT) -> Iterator[str]:
    """Names of the layers that a number type is chosen for."""
    for index, block in enumerate(net.blocks):
        mlp = [str(i) for i, layer in enumerate(cast(Block, block).ffn) if not isinstance(layer, nn.GELU)]
        for name in (*(f"self_attn.{n}" for n in "qkvo"), *(f"cross_attn.{n}" for n in "qo")):
            yield f"blocks.{index}.{name}"
        yield from (f"blocks.{index}.ffn.{name}" for name in mlp)


def lower_linears(net: CausalDiT, linears: LinearPrecision, *, dtype: torch.dtype) -> None:
    """Put the large linear layers of a network that is on its device into a number type, in place; ``auto`` leaves
    them as they are.

    Raises:
        UnsupportedPrecision, MissingExtra: see :func:`check_precision`; nothing has changed then.
    """
    check_precision(linears, device=net.patch_embedding.weight.device, dtype=dtype)
    if linears == "int8":
        for name in large_linears(net):
            net.set_submodule(name, Int8Linear(cast(nn.Linear, net.get_submodule(name))))
    elif linears == "fp8":
        to_fp8(net)


def to_fp8(net: CausalDiT) -> None:
    """Let torchao keep and multiply the large linear layers in float8."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    chosen = frozenset(large_linears(net))
    # Inductor's settings are global, and not this network's to change.
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(net, config, filter_fn=lambda _, name: name in chosen)


class Int8Linear(nn.Module):
    """A linear layer in int8 by torch's kernel on oneDNN. Its weights are packed for the processor, and so appear in no
    state dict.

    The older operator behind ``quantize_dynamic`` takes up to a fifth less time, but it works on torch's quantized
    tensors, which are going away; torchao's layers take longer than bfloat16 unless they are compiled.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the values of ``linear``, rounded to a level of the largest weight of each output, of which there
        are :func:`weight_levels`."""
        super().__init__()
        weight_OI = linear.weight.detach().float()
        self._scale_O = weight_OI.abs().amax(dim=1).clamp_min(_TINY) / weight_levels()
        self._zero_O = torch.zeros(len(self._scale_O), dtype=torch.int32)
        levels_OI = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels_OI, None)
        self._bias_O = None if linear.bias is None else linear.bias.detach().float()
        # Added before the fraction is cut off, so that inputs are rounded and none is negative.
        self._centre = torch.tensor(_CENTRE + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O) in the input's type."""
        x_LI = x.flatten(0, -2).float()
        least, most = torch.aminmax(x_LI)
        scale = max(-least.item(), most.item(), _TINY) / _INPUT_LEVELS
        # By way of 16 bits, since torch goes from float32 to uint8 number by number.
        levels_LI = torch.add(self._centre, x_LI, alpha=1 / scale).to(torch.int16).to(torch.uint8)
        weights = (self._packed, self._scale_O, self._zero_O, self._bias_O)
        # Neither scale nor zero of an output in eight bits, and nothing behind the product.
        plain: tuple[Any, ...] = (1.0, 0, x.dtype, "none", [], "")
        y_LO: Tensor = torch.ops.onednn.qlinear_pointwise(levels_LI, scale, _CENTRE, *weights, *plain)
        return y_LO.unflatten(0, x.shape[:-1])


def linear_bytes(linear: nn.Linear, linears: LinearPrecision) -> int:
    """Bytes that a large linear layer takes in a number type: what its values need, packing aside."""
    bias = 0 if linear.bias is None else linear.bias.numel()
    native = linear.weight.element_size()
    if linears in ("auto", "native"):
        return (linear.weight.numel() + bias) * native
    kept_bias = bias * (torch.float32.itemsize if linears == "int8" else native)
    return linear.weight.numel() + linear.out_features * torch.float32.itemsize + kept_bias
