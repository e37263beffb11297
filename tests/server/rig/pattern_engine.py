"""An engine without weights or torch, quick to start, for tests of supervision, pacing and transport.

Every frame shows its number within the stream's state as 16 black or white squares at the top, on a background
whose colour is that of the prompt. Prompts with a special meaning are listed at ``next_group``.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True)
class PatternReference:
    frames: int = 21
    height: int = 128
    width: int = 224
    fps: int = 16


@dataclass(frozen=True)
class PatternCacheUse:
    steps_saved: int
    refreshes_skipped: int
    occupancy: Mapping[str, float]


@dataclass
class PatternState:
    """``old_colour`` is what a blend comes from; ``blended`` of its ``blend_groups`` groups are made.

    ``reference`` are the colours of the frames to start from, 9 or 21.
    """

    prompt: str
    size: PatternSize
    seed: int
    frames_emitted: int = 0
    old_colour: tuple[float, ...] = ()
    blend_groups: int = 1
    blended: int = 1
    reference: list[list[float]] = field(default_factory=list)
    sr_share: float = 1.0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def colour(self) -> tuple[float, ...]:
        """Background of the newest group."""
        new = colour(self.prompt, self.seed)
        part = self.blended / self.blend_groups
        return (
            new if part == 1 else tuple(a + (b - a) * part for a, b in zip(self.old_colour, new, strict=True))
        )

    @property
    def cache_use(self) -> PatternCacheUse:
        """As if every frame saved two steps and every second one a refresh."""
        return PatternCacheUse(2 * self.frames_emitted, self.frames_emitted // 2, {"base": 1.0, "sr": 0.5})


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
    ``PATTERN_LOAD_SECONDS`` that of loading. ``PATTERN_COSTS`` is the path of a JSON file with the seconds of a group
    by name of the size, which is read again for each group; with ``1K/0.5`` it has that step too. ``PATTERN_GPU`` is
    what it says of a GPU, such as 3/8 for three bytes of eight in use."""

    def __init__(self) -> None:
        self.preset = PatternPreset()
        self._seconds = float(os.environ.get("PATTERN_SECONDS", "0.01"))
        self._costs = os.environ.get("PATTERN_COSTS")
        self._gpu = os.environ.get("PATTERN_GPU")

    @classmethod
    def load(cls, preset: str, size: str | None = None) -> PatternEngine:
        if preset == "broken":
            raise BadConfig("the preset 'broken' cannot be loaded")
        if preset == "dying":
            os._exit(9)
        time.sleep(float(os.environ.get("PATTERN_LOAD_SECONDS", "0")))
        return cls()

    def gpu_memory(self) -> dict[str, tuple[int, int]]:
        if self._gpu is None:
            return {}
        used, total = map(int, self._gpu.split("/"))
        return {"cuda:0": (used, total)}

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

    def set_prompt(self, state: PatternState, prompt: str, *, transition: str, groups: int) -> None:
        """A blend goes from one colour to the other in equal steps, and so does a fade here."""
        assert transition in ("fade", "blend") or (transition, groups) == ("recompute", 1)
        state.old_colour = state.colour
        state.prompt = self.check_prompt(prompt)
        state.blend_groups, state.blended = (groups, 0) if transition != "recompute" else (1, 1)

    def set_size(self, state: PatternState, size: str) -> None:
        state.size = self.preset.size(size)

    def sr_shares(self, size: str) -> tuple[float, ...]:
        """Half of it for the larger size, where its costs say what that costs."""
        return (1.0, 0.5) if f"{size}/0.5" in self._costs_now() else (1.0,)

    def set_sr_share(self, state: PatternState, share: float) -> None:
        assert share in self.sr_shares(state.size.name)
        state.sr_share = share

    def _costs_now(self) -> dict[str, float]:
        return json.loads(Path(self._costs).read_text()) if self._costs else {}

    def reference_format(self) -> PatternReference:
        return PatternReference()

    def start_from(self, state: PatternState, frames_THWC: np.ndarray) -> None:
        """Shows frames of their mean colours."""
        count = 21 if len(frames_THWC) >= 21 else 9
        colours = frames_THWC[-count:].mean(axis=(1, 2)).tolist()
        state.reference = [colours[0]] * (count - len(colours)) + colours

    def save_stream(self, state: PatternState, max_bytes: int | None = None) -> bytes:
        kept = {name: value for name, value in vars(state).items() if name not in ("size", "stage_seconds")}
        return json.dumps({**kept, "size": state.size.name}).encode()

    def load_stream(self, data: bytes) -> PatternState:
        try:
            kept = json.loads(data)
        except ValueError as error:
            raise BadConfig("not a kept stream") from error
        kept["old_colour"] = tuple(kept["old_colour"])
        return PatternState(**{**kept, "size": self.preset.size(kept["size"])})

    def next_group(self, state: PatternState) -> np.ndarray:
        """Frames. The prompt "fault" raises, "die" ends the process, "noise" fills any bitrate, "slow" is slow."""
        if state.prompt == "fault":
            raise RuntimeError("a fault on purpose")
        if state.prompt == "die":
            os._exit(9)
        name = state.size.name if state.sr_share == 1 else f"{state.size.name}/{state.sr_share:g}"
        seconds = self._costs_now().get(name, self._seconds)
        time.sleep(1.0 if state.prompt == "slow" else seconds)
        state.blended = min(state.blended + 1, state.blend_groups)
        count = 12 if state.frames_emitted else 9
        frames = np.empty((count, state.size.height, state.size.width, 3), np.uint8)
        frames[:] = state.colour
        if state.prompt == "noise":
            frames[:] = np.random.default_rng(state.frames_emitted).integers(0, 255, frames.shape, np.uint8)
        for offset in range(count):
            number = state.frames_emitted + offset
            if number < len(state.reference):
                frames[offset] = state.reference[number]
            for bit in range(BITS):
                shade = 235 if number >> bit & 1 else 16
                frames[offset, :SQUARE, bit * SQUARE : (bit + 1) * SQUARE] = shade
        state.frames_emitted += count
        state.stage_seconds = {"base": seconds / 2, "sr": seconds / 2}
        return frames
