"""Names of tensors: from those of the public files to ours. Pure functions of names and tensors.

Ours are those of Wan 2.1's own transformer, of TAEHV, and, for the text encoder, of transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ultraflash.models.errors import MissingWeights

_WRAPPERS = frozenset({"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module"})
"""What FSDP, activation checkpointing, torch.compile and DDP put between the parts of a name."""

_NESTED = ("generator_ema", "generator", "model", "state_dict")
"""Entries of a checkpoint that hold the network, the best first."""


def state_dict_of(checkpoint: Mapping[str, Any], *, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: averaged weights before the last ones, those of an inner dict before the outer.

    Raises:
        MissingWeights: something else than tensors is in it.
    """
    for name in _NESTED:
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping):
            return state_dict_of(inner, source=f"{source}:{name}")
    strange = sorted(key for key, value in checkpoint.items() if not isinstance(value, Tensor))
    if strange or not checkpoint:
        raise MissingWeights(
            f"{source} holds no network: {strange[:4] or 'it is empty'}; fetch the file again",
            param="weights",
        )
    return dict(checkpoint)


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str], *, source: str) -> dict[str, Tensor]:
    """``tensors`` under other names.

    Raises:
        MissingWeights: two tensors would have the same name.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in result:
            raise MissingWeights(f"{source} holds {name} twice, once as {key}", param="weights")
        result[name] = tensor
    return result


def unwrapped(key: str) -> str:
    """A name without what wrappers put into it, and without the leading ``model.`` of a pipeline's network."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    return ".".join(parts[1:] if parts[0] == "model" and len(parts) > 1 else parts)


_DIFFUSERS = (
    (r"condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"condition_embedder\.time_proj\.", "time_projection.1."),
    (r"condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"(blocks\.\d+)\.attn1\.to_out\.0\.", r"\1.self_attn.o."),
    (r"(blocks\.\d+)\.attn2\.to_out\.0\.", r"\1.cross_attn.o."),
    (r"(blocks\.\d+)\.attn1\.(?:to_)?", r"\1.self_attn."),
    (r"(blocks\.\d+)\.attn2\.(?:to_)?", r"\1.cross_attn."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
    (r"(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"scale_shift_table$", "head.modulation"),
    (r"proj_out\.", "head.head."),
)


def wan_from_diffusers(key: str) -> str:
    """Wan's own name of a tensor of diffusers' ``WanTransformer3DModel``; other names stay as they are."""
    for pattern, replacement in _DIFFUSERS:
        name, found = re.subn(rf"^{pattern}", replacement, key)
        if found:
            return name
    return key


def wan_names(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """A transformer's tensors under Wan's names, from either naming and out of any wrapper."""
    plain = renamed(tensors, unwrapped, source=source)
    if any(key.startswith("condition_embedder.") for key in plain):
        return renamed(plain, wan_from_diffusers, source=source)
    return plain


_WAN_TEXT = (
    (r"token_embedding\.weight$", "shared.weight"),
    (r"norm\.weight$", "encoder.final_layer_norm.weight"),
    (r"blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (
        r"blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)


def umt5_from_wan(key: str) -> str:
    """The name that transformers gives to a tensor of Wan's own UMT5 encoder; other names stay as they are."""
    for pattern, replacement in _WAN_TEXT:
        name, found = re.subn(rf"^{pattern}", replacement, key)
        if found:
            return name
    return key


def umt5_names(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """A text encoder's tensors under transformers' names; the token embedding once, though some files repeat it."""
    names = renamed(tensors, umt5_from_wan, source=source)
    names.pop("encoder.embed_tokens.weight", None)
    return names


def trimmed_growth(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """``tensors`` whose 1x1 convolutions that grow time have no more rows than ``shapes``: the last ones count.

    TAEHV's files are made for the most frames; a network that makes fewer takes the newest of them.
    """
    result = dict(tensors)
    for key, tensor in tensors.items():
        wanted = shapes.get(key)
        grows = wanted is not None and tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
        if grows and wanted is not None and tensor.shape[0] > wanted[0] and tensor.shape[1:] == wanted[1:]:
            result[key] = tensor[-wanted[0] :]
    return result


def upsampler_factor(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """How far a latent upsampler (v1) of these shapes enlarges; None when it is none."""
    if "final.weight" not in shapes:
        return None
    mid = shapes["final.weight"][1]
    factor, stage = 1, 0
    while (shape := shapes.get(f"pre_shuffle.{stage}.weight")) is not None:
        factor *= math.isqrt(shape[0] // mid)
        stage += 1
    return factor if stage else None


def halves(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and decoder of an autoencoder's tensors, the prefix removed from either."""
    encoder, decoder = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("encoder.", "decoder.")
    )
    return encoder, decoder
