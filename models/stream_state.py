"""Everything that one stream carries from group to group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from ultraflash.models.dit import TextContext
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.preset import Size
from ultraflash.models.ring_cache import BlockCache, RingCache


class StageSeconds:
    """Wall-clock seconds of the stages of one group."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to ``stage``."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start


@dataclass(slots=True, kw_only=True)
class Picture:
    """Memory of the stages behind the base: they depend on the size, the base doesn't.

    Attributes:
        size: what is made.
        upsampler, decoder: last frame of every memory block.
        sr: keys and values of the last temporal blocks.
    """

    size: Size
    upsampler: FrameMemory
    decoder: FrameMemory
    sr: BlockCache


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptContext:
    """A prompt and its cross-attention keys and values for both transformers."""

    prompt: str
    base: TextContext
    sr: TextContext


@dataclass(slots=True, kw_only=True)
class StreamState:
    """One stream. Made by ``Cascade.open``; networks never hold any of it.

    Attributes:
        seed: of all noise of the stream.
        prompt_context: the prompt in force from the next group on.
        base_cache: keys and values of the last latent frames.
        picture: memory of upsampler, SR and decoder.
        next_size: size from the next group on.
        last_latents_BCFHW: clean base latents of the newest group: what a change of size warms up with.
        latent_frames: latent frames made so far.
        frames_emitted: pixel frames returned so far.
        stage_seconds: seconds by stage of the newest group.
    """

    seed: int
    prompt_context: PromptContext
    base_cache: RingCache
    picture: Picture
    next_size: Size
    last_latents_BCFHW: Tensor | None = None
    latent_frames: int = 0
    frames_emitted: int = 0
    stage_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The prompt in force from the next group on."""
        return self.prompt_context.prompt

    @property
    def size(self) -> Size:
        """The size in force from the next group on."""
        return self.next_size
