"""The diffusion transformer of Wan 2.1, causal over time: the base generator and the SR network are both this.

The network holds weights only. What a token may attend to is decided by the ``attend`` argument, so the same weights
run a stream over a cache, a training clip under a mask, or block-sparse super-resolution.

Shapes: B batch, C latent channels, F latent frames, H W latent rows and columns, L tokens = F * S,
S = h * w tokens of a frame, N heads, D head size, E = N * D model width, X text tokens, W text width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultraflash.kernels import residual_norm
from ultraflash.kernels.attention import dense_attention
from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.kernels.heads import to_heads
from ultraflash.models.errors import BadConfig
from ultraflash.models.rope import rope_table
from ultraflash.models.seams import SeamMender

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_BLND, k_BLND, v_BLND), queries and keys after RoPE -> out_BLND."""


@runtime_checkable
class AttendInBlocks(Protocol):
    """An ``Attend`` that would rather have its tokens in block layout, into which they can be written at once."""

    @property
    def grid(self) -> BlockGrid:
        """The blocks."""

    def attend_blocks(self, layer: int, q_BGTND: Tensor, k_BGTND: Tensor, v_BGTND: Tensor) -> Tensor:
        """Queries, keys and values in block layout -> out_BLND, in reading order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """Size of a transformer, in the terms of the official checkpoints.

    Args:
        in_channels, out_channels: C of what goes in and of what is predicted.
        dim, ffn_dim, layers, heads: E, width of the MLP, number of blocks, N.
        text_tokens, text_dim: X and W.
        freq_dim: width of the sinusoidal time embedding.
        patch: latent frames, rows and columns that make a token; the frames must be 1.
        eps: of every normalization.
        position_grid: token rows and columns of a learned embedding of absolute places. The official networks have
            none, see relative places alone and learn from edges where the sky is; a small one with little training
            should be told. It ties the network to this grid.
        text_summary: whether the mean of the text states joins the timestep's modulation, so that what holds for the
            whole picture need not be found by cross-attention. The official networks go without.
        mend_seams: whether the weights include a :class:`~ultraflash.models.seams.SeamMender`, for whoever shows the
            latents; tokens are square then. The official networks have none.
    """

    in_channels: int
    out_channels: int
    dim: int
    ffn_dim: int
    layers: int
    heads: int
    text_tokens: int
    text_dim: int
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    position_grid: tuple[int, int] | None = None
    text_summary: bool = False
    mend_seams: bool = False

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.dim, self.ffn_dim, self.layers, self.heads)
        if min(*sizes, self.text_tokens, self.text_dim, *self.patch) < 1 or len(self.patch) != 3:
            raise BadConfig("channels, widths, layers, heads, text sizes and the three of patch start at 1")
        if self.dim % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise BadConfig(
                f"dim {self.dim} does not split into {self.heads} heads of an even size of 6 or more"
            )
        if self.patch[0] != 1:
            raise BadConfig(f"a token spans one latent frame, not {self.patch[0]}")
        if self.freq_dim % 2:
            raise BadConfig(f"freq_dim must be even, not {self.freq_dim}")
        _, down, across = self.patch
        if self.mend_seams and down != across:
            raise BadConfig(
                f"seams are mended between square tokens, not of {down}x{across}", param="mend_seams"
            )

    @property
    def head_dim(self) -> int:
        """D."""
        return self.dim // self.heads

    def token_grid(self, rows: int, cols: int) -> tuple[int, int]:
        """(h, w) of a latent frame of ``rows`` x ``cols``."""
        _, down, across = self.patch
        if rows % down or cols % across:
            raise BadConfig(f"a latent frame of {rows}x{cols} does not divide into {down}x{across} patches")
        if self.position_grid not in (None, (rows // down, cols // across)):
            raise BadConfig(
                f"the network is tied to {self.position_grid} tokens, not those of {rows}x{cols} latents"
            )
        return rows // down, cols // across


@dataclass(frozen=True, slots=True)
class TextContext:
    """Cross-attention keys and values of one prompt, each (B, X, N, D) per layer, and its summary (B, 1, E) if any."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    summary_B1E: Tensor | None = None


def sinusoidal_embedding(timestep: Tensor, width: int) -> Tensor:
    """Cosines then sines of ``timestep * 10000**(-i/(width/2))``, float32 of shape (*timestep.shape, width)."""
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = timestep.double()[..., None] * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


class Attention(nn.Module):
    """Projections of one attention; normalizes queries and keys over the whole model width."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.eps = config.eps
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = nn.RMSNorm(config.dim, config.eps)
        self.norm_k = nn.RMSNorm(config.dim, config.eps)

    def query(self, x_BLE: Tensor, rope: Tensor | None = None, grid: BlockGrid | None = None) -> Tensor:
        """q_BLND, rotated by ``rope``; (B, G, T, N, D) with a ``grid``."""
        weight_E = self.norm_q.weight
        return to_heads(self.q(x_BLE), self.heads, weight_E=weight_E, eps=self.eps, rope=rope, grid=grid)

    def key(self, x_BLE: Tensor, rope: Tensor | None = None, grid: BlockGrid | None = None) -> Tensor:
        """k_BLND, rotated by ``rope``; (B, G, T, N, D) with a ``grid``."""
        weight_E = self.norm_k.weight
        return to_heads(self.k(x_BLE), self.heads, weight_E=weight_E, eps=self.eps, rope=rope, grid=grid)

    def value(self, x_BLE: Tensor, grid: BlockGrid | None = None) -> Tensor:
        """v_BLND; (B, G, T, N, D) with a ``grid``."""
        return to_heads(self.v(x_BLE), self.heads, grid=grid)

    def output(self, out_BLND: Tensor) -> Tensor:
        """Back to (B, L, E)."""
        return self.o(out_BLND.flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention and MLP, the first and last shifted, scaled and gated by the timestep."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = Attention(config)
        self.norm3 = nn.LayerNorm(config.dim, config.eps)
        self.cross_attn = Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.passes = EAGER

    def forward(
        self,
        x_BLE: Tensor,
        time_BF6E: Tensor,
        rope: Tensor,
        text: tuple[Tensor, Tensor],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        dtype: torch.dtype,
        grid: BlockGrid | None,
    ) -> Tensor:
        """The stream (B, L, E) behind the block; ``dtype`` is that of its matrix products, ``grid`` as `attend` has."""
        q, k, v = self.passes.enter(self, x_BLE, time_BF6E, rope, dtype, grid)
        return self.passes.leave(self, x_BLE, attend(q, k, v), time_BF6E, *text, dtype)

    def modulations(self, time_BF6E: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the attention, then of the MLP, each (B, F, 1, E)."""
        return (self.modulation.float() + time_BF6E).unsqueeze(3).unbind(2)


def enter(
    block: Block, x_BLE: Tensor, time_BF6E: Tensor, rope: Tensor, dtype: torch.dtype, grid: BlockGrid | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The half of a block before self-attention: queries, keys and values, laid out as ``grid`` says."""
    shift, scale = block.modulations(time_BF6E)[:2]
    normed = residual_norm.normed(x_BLE, 1.0 + scale, shift, eps=block.eps, dtype=dtype)
    attention = block.self_attn
    q, k = attention.query(normed, rope, grid), attention.key(normed, rope, grid)
    return q, k, attention.value(normed, grid)


def leave(
    block: Block,
    x_BLE: Tensor,
    out_BLND: Tensor,
    time_BF6E: Tensor,
    keys_BXND: Tensor,
    values_BXND: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The half behind self-attention, whose result is ``out_BLND``: cross-attention and MLP."""
    _, _, gate_a, shift, scale, gate = block.modulations(time_BF6E)
    update, norm = block.self_attn.output(out_BLND), block.norm3
    x_BLE, normed = residual_norm.add_normed(
        x_BLE, update, gate_a, norm.weight, norm.bias, eps=block.eps, dtype=dtype
    )
    out = dense_attention(block.cross_attn.query(normed), keys_BXND, values_BXND)

    update = block.cross_attn.output(out)
    x_BLE, normed = residual_norm.add_normed(
        x_BLE, update, None, 1.0 + scale, shift, eps=block.eps, dtype=dtype
    )
    return residual_norm.add(x_BLE, block.ffn(normed), gate)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPasses:
    """The two halves of a block as they run: plain, or compiled."""

    enter: Callable[..., tuple[Tensor, Tensor, Tensor]]
    leave: Callable[..., Tensor]


EAGER = BlockPasses(enter=enter, leave=leave)


class Head(nn.Module):
    """Last normalization, modulation and projection to the pixels of a patch."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x_BLE: Tensor, time_BFE: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + time_BFE.unsqueeze(2)).unsqueeze(3).unbind(2)
        dtype = self.head.weight.dtype
        return self.head(residual_norm.normed(x_BLE, 1.0 + scale, shift, eps=self.eps, dtype=dtype))


class PlaceEmbedding(nn.Module):
    """A learned vector for every token of a frame, the same in all frames."""

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim))

    def forward(self, x_BLE: Tensor) -> Tensor:
        places = self.vectors.shape[1]
        return (x_BLE.unflatten(1, (-1, places)) + self.vectors).flatten(1, 2)


class TextSummary(nn.Module):
    """Mean of the text states that are not padding, projected to the model width; starts at nothing."""

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_dim, dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, states_BXW: Tensor) -> Tensor:
        tokens = (states_BXW != 0).any(dim=2).sum(dim=1).clamp_min(1)
        return self.project(states_BXW.float().sum(dim=1) / tokens[:, None]).unsqueeze(1)


class CausalDiT(nn.Module):
    """Wan 2.1's transformer; parameter names and shapes are those of the official checkpoints."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_channels, config.dim, config.patch, stride=config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.dim, config.dim),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        self.places = (
            None if config.position_grid is None else PlaceEmbedding(config.position_grid, config.dim)
        )
        self.text_summary = TextSummary(config.text_dim, config.dim) if config.text_summary else None
        self.seams = SeamMender(config.out_channels, config.patch) if config.mend_seams else None

    def cast(self, dtype: torch.dtype) -> CausalDiT:
        """Put the matrix products in ``dtype``; time embedding, modulation and norms stay float32."""
        for name, parameter in self.named_parameters():
            apart = name.startswith(("time_", "places", "text_summary", "seams"))
            keeps_float32 = apart or "modulation" in name or "norm" in name
            parameter.data = parameter.data.to(torch.float32 if keeps_float32 else dtype)
        return self

    def encode_text(self, states_BXW: Tensor) -> TextContext:
        """Cross-attention keys and values of a prompt.

        Args:
            states_BXW: token states of the text encoder, at most ``text_tokens`` of them; missing rows count as zeros.

        Raises:
            BadConfig: more tokens than that.
        """
        missing = self.config.text_tokens - states_BXW.shape[1]
        if missing < 0:
            raise BadConfig(
                f"{states_BXW.shape[1]} text tokens, but the network takes {self.config.text_tokens}"
            )
        dtype = self.patch_embedding.weight.dtype
        embedded = self.text_embedding(F.pad(states_BXW, (0, 0, 0, missing)).to(dtype))
        attentions = [cast(Block, block).cross_attn for block in self.blocks]
        return TextContext(
            keys=tuple(attention.key(embedded) for attention in attentions),
            values=tuple(attention.value(embedded) for attention in attentions),
            summary_B1E=self._summarize(states_BXW),
        )

    def _summarize(self, states_BXW: Tensor) -> Tensor | None:
        if self.text_summary is None:
            return None
        with _without_autocast(states_BXW.device):
            return self.text_summary(states_BXW)

    def forward(
        self,
        latent_BCFHW: Tensor,
        timestep_BF: Tensor,
        text: TextContext,
        frame_positions_F: Tensor,
        attend: Attend,
    ) -> Tensor:
        """Predict the flow ``noise - clean``, or what else the weights were trained for (see `prediction`).

        Args:
            latent_BCFHW: noisy latents (and, for SR, the condition behind them on the channel axis).
            timestep_BF: 1000 * sigma per latent frame, or (B, 1) for all frames alike.
            text: from :meth:`encode_text`, with batch B or 1.
            frame_positions_F: absolute positions of the latent frames for RoPE, integers.
            attend: self-attention, called once per layer in order.

        Returns:
            (B, out_channels, F, H, W), float32.

        Raises:
            BadConfig: rows or columns do not divide into patches.
        """
        config = self.config
        frames, rows, cols = latent_BCFHW.shape[2:]
        h, w = config.token_grid(rows, cols)
        rope = rope_table(frame_positions_F, h, w, config.head_dim)
        # float32 throughout, also under autocast: in bfloat16 neighbouring timesteps would fall together.
        with _without_autocast(latent_BCFHW.device):
            time_BFE = self.time_embedding(sinusoidal_embedding(timestep_BF, config.freq_dim))
            if text.summary_B1E is not None:
                time_BFE = time_BFE + text.summary_B1E
            time_BF6E = self.time_projection(time_BFE).unflatten(-1, (6, config.dim))

        dtype = self.patch_embedding.weight.dtype
        x_BLE = self._patchify(latent_BCFHW, h, w).float()
        if self.places is not None:
            x_BLE = self.places(x_BLE)
        for layer, block in enumerate(self.blocks):
            keys, values = text.keys[layer], text.values[layer]
            if keys.shape[0] != x_BLE.shape[0]:
                keys, values = (t.expand(x_BLE.shape[0], -1, -1, -1) for t in (keys, values))
            of_layer, grid = _of_layer(attend, layer)
            x_BLE = block(x_BLE, time_BF6E, rope, (keys, values), of_layer, dtype, grid)
        return self._unpatchify(self.head(x_BLE, time_BFE).float(), frames, h, w)

    def _patchify(self, latent_BCFHW: Tensor, h: int, w: int) -> Tensor:
        # The strided convolution as one matrix product: the same numbers, and bf16 is fast on every device.
        _, down, across = self.config.patch
        patches = latent_BCFHW.unflatten(4, (w, across)).unflatten(3, (h, down))
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        weight = self.patch_embedding.weight
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.patch_embedding.bias)

    def _unpatchify(self, x_BLP: Tensor, frames: int, h: int, w: int) -> Tensor:
        _, down, across = self.config.patch
        x = x_BLP.unflatten(2, (down, across, self.config.out_channels)).unflatten(1, (frames, h, w))
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def _of_layer(
    attend: Attend, layer: int
) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], BlockGrid | None]:
    """One layer's self-attention, and the blocks that it takes tokens in, if it does."""
    if isinstance(attend, AttendInBlocks):
        return functools.partial(attend.attend_blocks, layer), attend.grid
    return functools.partial(attend, layer), None


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    # The meta device, on which memory is planned, has no autocast to switch off.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
