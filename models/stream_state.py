"""Everything that one stream carries from group to group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ultraflash.models.dit import TextContext
from ultraflash.models.dynamic_cache import CacheUse, DynamicCacheConfig
from ultraflash.models.fade import Fade
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.preset import Size
from ultraflash.models.ring_cache import BlockCache, RingCache
from ultraflash.models.spread_limit import Spread
from ultraflash.models.stage_clock import StageClock
from ultraflash.models.window_latents import WindowLatents

if TYPE_CHECKING:
    from ultraflash.models.overlap import Ahead, WindowMark


@dataclass(slots=True, kw_only=True)
class Picture:
    """Memory of the stages behind the base: they depend on the size, the base doesn't.

    Attributes:
        size: what is made.
        upsampler, decoder: last frame of every memory block.
        sr: keys and values of the last temporal blocks.
        fade: the newest frame, and what of it is still seen.
    """

    size: Size
    upsampler: FrameMemory
    decoder: FrameMemory
    sr: BlockCache
    fade: Fade = field(default_factory=Fade)

    def to(self, device: torch.device) -> None:
        """Move everything to a device but frames, which are on the CPU."""
        for part in (self.upsampler, self.decoder, self.sr):
            part.to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptContext:
    """A prompt, its text states (1, X, W) and its cross-attention keys and values for the base and, by part, for the
    networks of super-resolution."""

    prompt: str
    states_1XW: Tensor
    base: TextContext
    sr: Mapping[str, TextContext]

    def to(self, device: torch.device) -> PromptContext:
        """The same on a device."""
        return replace(
            self,
            states_1XW=self.states_1XW.to(device),
            base=_moved(self.base, device),
            sr={part: _moved(context, device) for part, context in self.sr.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBlend:
    """A change of prompt in progress: how far the text states have come from one to the other.

    Attributes:
        source_1XW, target_1XW: text states, with equally many rows.
        groups: over which the change is spread; the last of them has the target alone.
        done: groups of these that have begun.
    """

    source_1XW: Tensor
    target_1XW: Tensor
    groups: int
    done: int = 0

    @property
    def states_1XW(self) -> Tensor:
        """Text states now: the source at 0, the target at ``groups``."""
        if self.done >= self.groups:
            return self.target_1XW
        return torch.lerp(self.source_1XW, self.target_1XW, self.done / self.groups)

    def to(self, device: torch.device) -> PromptBlend:
        """The same on a device."""
        return replace(self, source_1XW=self.source_1XW.to(device), target_1XW=self.target_1XW.to(device))


@dataclass(slots=True, kw_only=True)
class StreamState:
    """One stream. Made by ``Cascade.open``; networks never hold any of it.

    Attributes:
        seed: of all noise of the stream.
        prompt_context: the prompt in force from the next group on.
        base_cache: keys and values of the last latent frames.
        window: clean latents of the frames in ``base_cache``.
        picture: memory of upsampler, SR and decoder.
        next_size: size from the next group on.
        clock: times its stages.
        dynamic_cache: what is left out for speed.
        sr_share: share of the pairs of super-resolution's sparse attention that is kept, from the next group on.
        blend: the change of prompt in progress, if there is one.
        recompute_window: whether the window's keys and values are made anew before the next group.
        last_latents_BCFHW: clean base latents of the newest group: what a change of size warms up with.
        spread: of the base latents so far, where the preset limits it.
        reference_BCFHW: clean base latents of whole blocks that are shown before the first one that is made.
        groups, latent_frames: groups and latent frames made so far.
        frames_emitted: pixel frames returned so far.
        steps_saved, refreshes_skipped: denoising and commit passes left out so far.
        ahead: the next group's base latents, where they are generated early, see :mod:`ultraflash.models.overlap`.
        undo: room to note what generating early overwrites, allocated once; what is in it belongs to ``ahead``.
        offloaded: whether it rests in host memory.
        stage_seconds: seconds by stage, of the newest group; on a GPU, of what it has come to since the group before.
    """

    seed: int
    prompt_context: PromptContext
    base_cache: RingCache
    window: WindowLatents
    picture: Picture
    next_size: Size
    clock: StageClock
    dynamic_cache: DynamicCacheConfig = field(default_factory=DynamicCacheConfig)
    sr_share: float = 1.0
    blend: PromptBlend | None = None
    recompute_window: bool = False
    last_latents_BCFHW: Tensor | None = None
    spread: Spread = field(default_factory=Spread)
    reference_BCFHW: Tensor | None = None
    groups: int = 0
    latent_frames: int = 0
    frames_emitted: int = 0
    steps_saved: int = 0
    refreshes_skipped: int = 0
    ahead: Ahead | None = None
    undo: WindowMark | None = None
    offloaded: bool = False
    stage_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The prompt in force from the next group on, or at the end of a blend that has begun."""
        return self.prompt_context.prompt

    @property
    def size(self) -> Size:
        """The size in force from the next group on."""
        return self.next_size

    @property
    def cache_use(self) -> CacheUse:
        """What was left out so far, and how full the caches are."""
        return CacheUse(
            steps_saved=self.steps_saved,
            refreshes_skipped=self.refreshes_skipped,
            occupancy={"base": self.base_cache.occupancy, "sr": self.picture.sr.occupancy},
        )

    def to(self, device: torch.device) -> None:
        """Move every tensor to a device. Nothing may have been generated ahead."""
        self.undo = None
        self.prompt_context = self.prompt_context.to(device)
        self.blend = self.blend and self.blend.to(device)
        self.spread = self.spread.to(device)
        for part in (self.base_cache, self.window, self.picture):
            part.to(device)
        if self.last_latents_BCFHW is not None:
            self.last_latents_BCFHW = self.last_latents_BCFHW.to(device)
        if self.reference_BCFHW is not None:
            self.reference_BCFHW = self.reference_BCFHW.to(device)


def _moved(context: TextContext, device: torch.device) -> TextContext:
    return TextContext(
        keys=tuple(key.to(device) for key in context.keys),
        values=tuple(value.to(device) for value in context.values),
        summary_B1E=None if context.summary_B1E is None else context.summary_B1E.to(device),
    )
