"""The base generator over the blocks of a stream: denoising, and making a window's keys and values anew.

Shapes: B batch (1), C channels, F latent frames, H W rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.dit import CausalDiT
from ultraflash.models.dynamic_cache import agreement
from ultraflash.models.noise import counter_noise
from ultraflash.models.prediction import clean_estimate
from ultraflash.models.preset import BaseConfig
from ultraflash.models.schedule import add_noise
from ultraflash.models.spread_limit import limit_spread
from ultraflash.models.stream_state import StreamState
from ultraflash.models.streaming_attention import WindowAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGenerator:
    """Weights and schedule of the base generator; every call gets the stream that it works on."""

    net: CausalDiT
    config: BaseConfig
    device: torch.device

    def denoise(self, state: StreamState, start: int, frames: int) -> Tensor:
        """Make the clean latents (1, C, frames, H, W) of the block whose first latent frame is ``start``.

        Its keys and values stay in the cache: those of a last pass over the clean block, or of the last denoising
        pass where the stream's ``dynamic_cache`` leaves the other out. Seams are mended in what is returned alone: the
        network goes on from what it has made, as it was trained to.
        """
        config = self.config
        shape = (1, config.dit.out_channels, frames, config.rows, config.cols)
        sigmas, timesteps = config.schedule.sigmas, config.schedule.timesteps
        steps = state.dynamic_cache.steps(len(sigmas), first_block=start == 0)
        before = clean = noisy = self._noise(state, shape, steps[0], start)
        for number, step in enumerate(steps):
            if number:
                before, noisy = clean, add_noise(clean, self._noise(state, shape, step, start), sigmas[step])
            output = self._run(state, noisy, timesteps[step], start)
            clean = clean_estimate(output, prediction=config.prediction, noisy=noisy, sigma=sigmas[step])
        state.steps_saved += len(sigmas) - len(steps)
        if config.spread_limit is not None:
            clean, state.spread = limit_spread(clean, state.spread, config.spread_limit)
        self._commit(state, before if len(steps) > 1 else None, clean, start)
        state.window.append(clean)
        return clean if self.net.seams is None else self.net.seams(clean)

    def take(self, state: StreamState, clean_BCFHW: Tensor, start: int) -> Tensor:
        """Go on from a block that is given rather than made; returns it."""
        if self.config.spread_limit is not None:
            state.spread = state.spread.seen(clean_BCFHW)
        self._remember(state, clean_BCFHW, start)
        state.window.append(clean_BCFHW)
        return clean_BCFHW

    def _commit(self, state: StreamState, before: Tensor | None, clean: Tensor, start: int) -> None:
        """Close the block in the cache. A block of one step has no estimate to agree with, so it is run clean."""
        threshold = state.dynamic_cache.skip_commit_above
        # The score comes last, since it makes a GPU wait.
        if threshold is not None and before is not None and agreement(before, clean) > threshold:
            state.refreshes_skipped += 1
            state.base_cache.commit()
        else:
            self._remember(state, clean, start)

    def _remember(self, state: StreamState, clean_BCFHW: Tensor, start: int) -> None:
        """Put the keys and values of a finished block into the cache."""
        self._run(state, clean_BCFHW, 0.0, start)
        state.base_cache.commit()

    def recompute_window(self, state: StreamState) -> None:
        """Make the keys and values of the window anew, of its clean latents and under the prompt now in force.

        The cache then holds what it would hold had the stream begun with these frames: each block in order, over
        those before it that are still in the window.
        """
        state.base_cache.reset()
        for start, latent_BCFHW in state.window.blocks():
            self._remember(state, latent_BCFHW, start)

    def _run(self, state: StreamState, latent_BCFHW: Tensor, timestep: float, start: int) -> Tensor:
        frames = latent_BCFHW.shape[2]
        return self.net(
            latent_BCFHW,
            torch.full((1, frames), timestep, device=self.device),
            state.prompt_context.base,
            torch.arange(start, start + frames, device=self.device),
            WindowAttention(state.base_cache),
        )

    def _noise(self, state: StreamState, shape: tuple[int, ...], step: int, start: int) -> Tensor:
        noise = counter_noise(shape, seed=state.seed, role=f"base.step{step}", index=start)
        return noise.to(self.device)
