"""Teacher-forced training passes of the causal generator: every block learns from the clean blocks before it.

One pass holds the clean frames (all blocks but the last) and behind them the noisy frames of all blocks. A clean block
sees the clean blocks up to itself, a noisy block sees the clean blocks before it and itself: exactly what a stream
sees, where committed blocks lie in the cache and the block in work is noisy. Attention runs block by block over just
the keys that are visible, which on a CPU is several times faster than one masked call.

Shapes: B batch, C channels, F latent frames, K blocks, L tokens, N heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.attention import dense_attention, products
from ultraflash.models.dit import Attend, CausalDiT
from ultraflash.models.schedule import TRAIN_STEPS, add_noise


def block_causal(*, blocks: int, block_tokens: int, window_blocks: int) -> Attend:
    """Self-attention of a teacher-forced pass. A closure: torch 2.11 does not compile a call of a frozen dataclass.

    Args:
        blocks: K, noisy blocks in the pass; K - 1 clean ones lie before them.
        block_tokens: tokens of a block.
        window_blocks: how many blocks a block sees, itself included.
    """
    clean = blocks - 1

    def attend(layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        # Split once: a slice per use would make as many full-size zero tensors in the backward pass.
        queries, keys, values = (x.split(block_tokens, dim=1) for x in (q_BLND, k_BLND, v_BLND))
        outs = []
        for i, query in enumerate(queries):
            block = i if i < clean else i - clean
            seen = [*range(max(0, block + 1 - window_blocks), block), i]
            seen_keys, seen_values = (torch.cat([x[j] for j in seen], 1) for x in (keys, values))
            outs.append(_attend(query, seen_keys, seen_values))
        return torch.cat(outs, dim=1)

    return attend


def _attend(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    # On a CPU plain products also where no gradient is wanted, so that an error is measured as it was trained.
    attend = products.attend if q_BLND.device.type == "cpu" else dense_attention
    return attend(q_BLND, k_BMND, v_BMND)


def teacher_forced_output(
    net: CausalDiT,
    clean_BCFHW: Tensor,
    noise_BCFHW: Tensor,
    sigma_BK: Tensor,
    text_BXW: Tensor,
    *,
    block_frames: int,
    window_blocks: int,
    context_BCFHW: Tensor | None = None,
) -> Tensor:
    """The network's output (B, C, F, H, W) for every block, each noised at its own level.

    Args:
        clean_BCFHW: latents; F is a multiple of ``block_frames``.
        noise_BCFHW: standard normal noise.
        sigma_BK: noise level of every block, in [0, 1].
        text_BXW: token states of the prompts.
        context_BCFHW: what the blocks see of the blocks before them, if that is not ``clean_BCFHW`` itself.
    """
    frames, rows, cols = clean_BCFHW.shape[2:]
    blocks = frames // block_frames
    past = frames - block_frames
    sigma_BF = sigma_BK.repeat_interleave(block_frames, dim=1)
    noisy = add_noise(clean_BCFHW, noise_BCFHW, sigma_BF[:, None, :, None, None])
    context = clean_BCFHW if context_BCFHW is None else context_BCFHW
    latents = torch.cat((context[:, :, :past], noisy), dim=2)
    timesteps = torch.cat((torch.zeros_like(sigma_BF[:, :past]), TRAIN_STEPS * sigma_BF), dim=1)
    order = torch.arange(frames, device=clean_BCFHW.device)
    h, w = net.config.token_grid(rows, cols)
    attend = block_causal(blocks=blocks, block_tokens=block_frames * h * w, window_blocks=window_blocks)
    output = net(latents, timesteps, net.encode_text(text_BXW), torch.cat((order[:past], order)), attend)
    return output[:, :, past:]
