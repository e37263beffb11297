"""Wan 2.1's transformer once more, slow and plain: double precision, one sample, whole sequences, no cache.

It shares no code with the package; what a token may see is a matrix. Shapes: C channels, F latent frames, H W latent
rows and columns, L tokens, N heads, D head size, E model width, X text tokens, W text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ultraflash.models.dit import DiTConfig

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_LND, k_LND, v_LND) -> out_LND."""


def plain_flow(
    weights: Mapping[str, Tensor],
    config: DiTConfig,
    latent_CFHW: Tensor,
    timestep_F: Tensor,
    text_XW: Tensor,
    first_frame: int,
    attend: Attend,
) -> Tensor:
    """The flow (C, F, H, W) of frames that follow ``first_frame`` others."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    _, down, across = config.patch
    _, frames, rows, cols = latent_CFHW.shape
    h, width = rows // down, cols // across

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    text = torch.zeros(config.text_tokens, config.text_dim, dtype=torch.float64)
    text[: len(text_XW)] = text_XW
    text = linear("text_embedding.2", gelu(linear("text_embedding.0", text)))
    half = config.freq_dim // 2
    angle = timestep_F.double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    time = torch.cat((angle.cos(), angle.sin()), 1)
    time = linear("time_embedding.2", silu(linear("time_embedding.0", time)))
    six = linear("time_projection.1", silu(time)).view(-1, 6, config.dim)

    def per_token(each: Tensor) -> Tensor:
        return each.expand(frames, -1).repeat_interleave(h * width, 0)

    kernel = w["patch_embedding.weight"].flatten(1)
    tokens = []
    for f in range(frames):
        for i in range(h):
            for j in range(width):
                patch = latent_CFHW[:, f, i * down : (i + 1) * down, j * across : (j + 1) * across].double()
                tokens.append(kernel @ patch.flatten() + w["patch_embedding.bias"])
    x = torch.stack(tokens)
    places = [(first_frame + f, i, j) for f in range(frames) for i in range(h) for j in range(width)]
    for layer in range(config.layers):
        name = f"blocks.{layer}"
        parts = (w[f"{name}.modulation"] + six).unbind(1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = map(per_token, parts)

        def heads(part: str, x: Tensor, norm: str | None, name: str = name) -> Tensor:
            y = linear(f"{name}.{part}", x)
            if norm is not None:
                scale = (y.square().mean(1, keepdim=True) + config.eps).rsqrt()
                y = y * scale * w[f"{name}.{norm}.weight"]
            return y.view(len(x), config.heads, -1)

        y = layer_norm(x, config.eps) * (1 + scale_a) + shift_a
        q = rotate(heads("self_attn.q", y, "self_attn.norm_q"), places)
        k = rotate(heads("self_attn.k", y, "self_attn.norm_k"), places)
        out = attend(layer, q, k, heads("self_attn.v", y, None))
        x = x + gate_a * linear(f"{name}.self_attn.o", out.flatten(1))
        y = layer_norm(x, config.eps) * w[f"{name}.norm3.weight"] + w[f"{name}.norm3.bias"]
        q = heads("cross_attn.q", y, "cross_attn.norm_q")
        k = heads("cross_attn.k", text, "cross_attn.norm_k")
        seen = torch.ones(len(x), len(text), dtype=torch.bool)
        out = masked_attention(q, k, heads("cross_attn.v", text, None), seen)
        x = x + linear(f"{name}.cross_attn.o", out.flatten(1))
        y = layer_norm(x, config.eps) * (1 + scale_m) + shift_m
        x = x + gate_m * linear(f"{name}.ffn.2", gelu(linear(f"{name}.ffn.0", y)))
    shift, scale = map(per_token, (w["head.modulation"] + time[:, None]).unbind(1))
    made = linear("head.head", layer_norm(x, config.eps) * (1 + scale) + shift)
    flow = torch.empty(config.out_channels, frames, rows, cols, dtype=torch.float64)
    for token, (f, i, j) in zip(made, places, strict=True):
        patch = token.view(down, across, config.out_channels).permute(2, 0, 1)
        flow[:, f - first_frame, i * down : (i + 1) * down, j * across : (j + 1) * across] = patch
    return flow


def masked_attention(q_LND: Tensor, k_MND: Tensor, v_MND: Tensor, seen: Tensor) -> Tensor:
    """Softmax attention; ``seen`` (L, M) or (N, L, M) says what takes part."""
    scores = torch.einsum("lnd,mnd->nlm", q_LND, k_MND) / math.sqrt(q_LND.shape[2])
    scores = scores.masked_fill(~seen, -math.inf)
    return torch.einsum("nlm,mnd->lnd", scores.softmax(2), v_MND)


def rotate(x_LND: Tensor, places: list[tuple[int, int, int]]) -> Tensor:
    """Rotary embedding of adjacent channels: time has what thirds leave over, then rows, then columns."""
    pairs = x_LND.shape[2] // 2
    third = pairs // 3
    counts = (pairs - 2 * third, third, third)
    angles = torch.tensor(
        [
            [p * 10000.0 ** (-i / n) for p, n in zip(place, counts, strict=True) for i in range(n)]
            for place in places
        ],
        dtype=torch.float64,
    )
    turned = torch.view_as_complex(x_LND.reshape(*x_LND.shape[:2], pairs, 2))
    turned = turned * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(2)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + eps).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())
