"""An engine without weights or torch, quick to start, for tests of supervision, pacing and transport.

Every frame shows its number within the stream's state as 16 black or white squares at the top, on a background
whose colour is that of the prompt. Prompts with a special meaning are listed at ``next_group``.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ultraflash.models.errors import BadConfig, EmptyPrompt, PromptTooLong, UnknownSize

SQUARE = 14
BITS = 16


@dataclass(frozen=True)
class PatternSize:
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class PatternPreset:
    name: str = "pattern"
    fps: int = 16
    sizes: tuple[PatternSize, ...] = (PatternSize("0.5K", 224, 128), PatternSize("1K", 416, 240))
    default_size: str = "0.5K"
    max_prompt_chars: int = 1000

    def size(self, text: str) -> PatternSize:
        for size in self.sizes:
            if text in (size.name, f"{size.width}x{size.height}"):
                return size
        raise UnknownSize(f"no size {text!r}; there are 0.5K (224x128) and 1K (416x240)")


@dataclass
class PatternState:
    prompt: str
    size: PatternSize
    seed: int
    frames_emitted: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


def colour(prompt: str, seed: int = 0) -> tuple[int, int, int]:
    """Background of a prompt: medium bright, so that the squares stand out."""
    digest = zlib.crc32(f"{prompt}|{seed}".encode())
    return 64 + digest % 128, 64 + (digest >> 8) % 128, 64 + (digest >> 16) % 128


def read_number(frame_HWC: np.ndarray) -> int:
    """Number that a decoded frame shows."""
    centres = [SQUARE // 2 + bit * SQUARE for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(centres) if frame_HWC[SQUARE // 2, x].mean() > 128)


class PatternEngine:
    """Deterministic pictures. In the environment, ``PATTERN_SECONDS`` is the work of a group and
    ``PATTERN_LOAD_SECONDS`` that of loading."""

    def __init__(self) -> None:
        self.preset = PatternPreset()
        self._seconds = float(os.environ.get("PATTERN_SECONDS", "0.01"))

    @classmethod
    def load(cls, preset: str) -> PatternEngine:
        if preset == "broken":
            raise BadConfig("the preset 'broken' cannot be loaded")
        if preset == "dying":
            os._exit(9)
        time.sleep(float(os.environ.get("PATTERN_LOAD_SECONDS", "0")))
        return cls()

    def check_prompt(self, prompt: str) -> str:
        if not prompt.strip():
            raise EmptyPrompt("empty")
        if len(prompt) > self.preset.max_prompt_chars:
            raise PromptTooLong("long")
        if prompt == "refuse me":
            raise PromptTooLong("refused by the engine")
        return prompt.strip()

    def open(self, prompt: str, *, size: str, seed: int) -> PatternState:
        return PatternState(prompt=self.check_prompt(prompt), size=self.preset.size(size), seed=seed)

    def set_prompt(self, state: PatternState, prompt: str) -> None:
        state.prompt = self.check_prompt(prompt)

    def set_size(self, state: PatternState, size: str) -> None:
        state.size = self.preset.size(size)

    def next_group(self, state: PatternState) -> np.ndarray:
        """Frames; the prompt "fault" raises, "die" ends the process, "noise" fills any bitrate."""
        if state.prompt == "fault":
            raise RuntimeError("a fault on purpose")
        if state.prompt == "die":
            os._exit(9)
        time.sleep(self._seconds)
        count = 12 if state.frames_emitted else 9
        frames = np.empty((count, state.size.height, state.size.width, 3), np.uint8)
        frames[:] = colour(state.prompt, state.seed)
        if state.prompt == "noise":
            frames[:] = np.random.default_rng(state.frames_emitted).integers(0, 255, frames.shape, np.uint8)
        for offset in range(count):
            number = state.frames_emitted + offset
            for bit in range(BITS):
                shade = 235 if number >> bit & 1 else 16
                frames[offset, :SQUARE, bit * SQUARE : (bit + 1) * SQUARE] = shade
        state.frames_emitted += count
        state.stage_seconds = {"base": self._seconds / 2, "sr": self._seconds / 2}
        return frames
