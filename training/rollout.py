"""Batched roll-outs of the generator over its own outputs, as a stream does it.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.attention import dense_attention
from ultraflash.models.dit import CausalDiT, TextContext
from ultraflash.models.prediction import clean_estimate
from ultraflash.models.preset import BaseConfig
from ultraflash.models.schedule import TRAIN_STEPS, add_noise, shifted_sigmas
from ultraflash.models.spread_limit import Spread, limit_spread
from ultraflash.models.streaming_attention import WindowAttention, window_cache


class Roller:
    """A batch of streams of one network, a prompt each: estimates of the block in work, commits of finished ones.

    All on the device of the prompts, which is that of the network.
    """

    def __init__(self, net: CausalDiT, config: BaseConfig, text_BXW: Tensor) -> None:
        self.net, self.config = net, config
        self.text = net.encode_text(text_BXW)
        self.batch, self.device = text_BXW.shape[0], text_BXW.device
        self.cache = window_cache(config, batch=self.batch, dtype=torch.float32, device=self.device)
        self.start = 0
        self._spreads = [Spread() for _ in range(self.batch)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one block of latents."""
        config = self.config
        return (self.batch, config.dit.out_channels, config.block_frames, config.rows, config.cols)

    @property
    def positions(self) -> Tensor:
        """Absolute latent frames of the block in work."""
        return torch.arange(self.start, self.start + self.config.block_frames, device=self.device)

    @torch.no_grad()
    def clean(self, latent_BCFHW: Tensor, sigma: float) -> Tensor:
        """Clean estimate of the block in work at noise level ``sigma``; its keys and values go to the cache."""
        shape = (self.batch, self.config.block_frames)
        timestep = torch.full(shape, TRAIN_STEPS * sigma, device=self.device)
        output = self.net(latent_BCFHW, timestep, self.text, self.positions, WindowAttention(self.cache))
        return clean_estimate(output, prediction=self.config.prediction, noisy=latent_BCFHW, sigma=sigma)

    def limited(self, clean_BCFHW: Tensor) -> Tensor:
        """A finished block with its spread limited, stream by stream, where the config limits it."""
        limit = self.config.spread_limit
        if limit is None:
            return clean_BCFHW
        blocks = []
        for stream, block_CFHW in enumerate(clean_BCFHW):
            block_1CFHW, self._spreads[stream] = limit_spread(block_CFHW[None], self._spreads[stream], limit)
            blocks.append(block_1CFHW)
        return torch.cat(blocks)

    @torch.no_grad()
    def commit(self, clean_BCFHW: Tensor) -> None:
        """Finish the block in work."""
        self.clean(clean_BCFHW, 0.0)
        self.cache.commit()
        self.start += self.config.block_frames

    def past(self) -> list[tuple[Tensor, Tensor]]:
        """Copies of the keys and values of every layer that the next block sees of the blocks before it."""
        frames = self.config.block_frames
        return [self.cache.past(layer, frames) for layer in range(self.config.dit.layers)]


class PastAttention:
    """Self-attention of a block over given keys and values of the past and itself; gradients flow through the block."""

    def __init__(self, past: list[tuple[Tensor, Tensor]]) -> None:
        self._past = past

    def __call__(self, layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        keys, values = self._past[layer]
        return dense_attention(
            q_BLND,
            torch.cat((keys.to(k_BLND.dtype), k_BLND), 1),
            torch.cat((values.to(v_BLND.dtype), v_BLND), 1),
        )


def block_estimate(
    net: CausalDiT,
    config: BaseConfig,
    latent_BCFHW: Tensor,
    sigma_B: Tensor,
    text: TextContext,
    positions_F: Tensor,
    past: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Clean estimate of one block at a noise level per sample, over a given past; differentiable."""
    timestep = TRAIN_STEPS * sigma_B[:, None].expand(-1, latent_BCFHW.shape[2])
    output = net(latent_BCFHW, timestep, text, positions_F, PastAttention(past))
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    return clean_estimate(output, prediction=config.prediction, noisy=latent_BCFHW, sigma=sigma)


@torch.no_grad()
def sample_blocks(
    net: CausalDiT,
    config: BaseConfig,
    text_BXW: Tensor,
    *,
    blocks: int,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """Multi-step sampling, block after block: Euler's method towards the guided estimate; latents (B, C, F, H, W)."""
    streams = [Roller(net, config, text_BXW)]
    if guidance != 1.0:
        streams.append(Roller(net, config, torch.zeros_like(text_BXW)))
    generator = torch.Generator().manual_seed(seed)
    table = shifted_sigmas(config.schedule.shift, steps).tolist() + [0.0]
    done = []
    for _ in range(blocks):
        x = torch.randn(streams[0].shape, generator=generator).to(text_BXW.device)
        for sigma, following in zip(table[:-1], table[1:], strict=True):
            cleans = [stream.clean(x, sigma) for stream in streams]
            clean = cleans[0] if len(cleans) == 1 else cleans[1] + guidance * (cleans[0] - cleans[1])
            x = clean + (following / sigma) * (x - clean)
        for stream in streams:
            stream.commit(x)
        done.append(x)
    return torch.cat(done, dim=2)


@torch.no_grad()
def sample_few_steps(
    net: CausalDiT, config: BaseConfig, text_BXW: Tensor, *, blocks: int, seed: int
) -> Tensor:
    """The sampler of a stream: the schedule's few steps with fresh noise between them; latents (B, C, F, H, W)."""
    stream = Roller(net, config, text_BXW)
    generator = torch.Generator().manual_seed(seed)
    done = []
    for _ in range(blocks):
        clean = torch.zeros(stream.shape, device=stream.device)
        for sigma in config.schedule.sigmas:
            noise = torch.randn(stream.shape, generator=generator).to(stream.device)
            noisy = add_noise(clean, noise, sigma)
            clean = stream.clean(noisy, sigma)
        clean = stream.limited(clean)
        stream.commit(clean)
        done.append(clean)
    return torch.cat(done, dim=2)
