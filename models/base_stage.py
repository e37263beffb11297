"""From prompt to base latents: the blocks of a group, under the prompt in force, in their turn or ahead of it.

Shapes: B batch (1), C channels, F latent frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraflash.models.block_generator import BlockGenerator
from ultraflash.models.overlap import Ahead, Background, adopt, mark, rewind
from ultraflash.models.preset import Preset
from ultraflash.models.prompt_encoder import PromptEncoder
from ultraflash.models.stream_state import StreamState


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStage:
    """The base generator over the groups of streams; every call gets the stream that it works on."""

    preset: Preset
    blocks: BlockGenerator
    prompts: PromptEncoder

    def latents(self, state: StreamState) -> Tensor:
        """Clean latents (1, C, F, H, W) of the next group: those generated ahead if they still hold, else new."""
        ahead = state.ahead
        if ahead is not None and ahead.after.dynamic_cache == state.dynamic_cache:
            adopt(state, ahead.after)
            state.ahead = None
            return ahead.latents_BCFHW
        self.forget_ahead(state)
        if state.blend is not None or state.recompute_window:
            with state.clock.measure("prompt"):
                self.change_prompt(state)
        with state.clock.measure("base"):
            return self._generate(state)

    def beside(self, state: StreamState, latents_BCFHW: Tensor, work: Callable[[], Tensor]) -> Tensor:
        """Generate the group behind these latents while ``work`` runs, and return what that returns.

        Of the time that the base takes, what it had to be waited for longer than ``work`` counts. Putting a blend's
        next prompt in force is part of that here, and so counts to ``base``, not to ``prompt`` as it does in turn.
        """
        after = replace(
            state, latent_frames=state.latent_frames + latents_BCFHW.shape[2], last_latents_BCFHW=None
        )
        mark(state, sum(self.preset.group_at(after.latent_frames)))
        with Background(self.blocks.device, lambda: self._generate_ahead(after)) as background:
            result = work()
            with state.clock.measure("base"):
                made = background.result()
        state.ahead = Ahead(latents_BCFHW=made, after=after)
        return result

    @torch.inference_mode()
    def forget_ahead(self, state: StreamState) -> None:
        """Take back what was generated ahead, since it is not wanted as it is."""
        if state.ahead is not None:
            rewind(state)
            state.ahead = None

    def change_prompt(self, state: StreamState) -> None:
        """Take a blend one group further, and make the window anew where that was asked for."""
        if state.blend is not None:
            blend = replace(state.blend, done=state.blend.done + 1)
            state.prompt_context = self.prompts.context(state.prompt, blend.states_1XW)
            state.blend = blend if blend.done < blend.groups else None
            state.spread = state.spread.scene_changes()
        if state.recompute_window:
            self.blocks.recompute_window(state)
            state.recompute_window = False

    @torch.inference_mode()
    def _generate_ahead(self, after: StreamState) -> Tensor:
        """Latents of the group after the one in work, on a thread of its own."""
        if after.blend is not None:
            self.change_prompt(after)
        return self._generate(after)

    def _generate(self, state: StreamState) -> Tensor:
        start, made = state.latent_frames, []
        for frames in self.preset.group_at(start):
            given = state.reference_BCFHW
            if given is None:
                made.append(self.blocks.denoise(state, start, frames))
            else:
                made.append(self.blocks.take(state, given[:, :, :frames], start))
                state.reference_BCFHW = given[:, :, frames:] if given.shape[2] > frames else None
            start += frames
        return torch.cat(made, dim=2)
