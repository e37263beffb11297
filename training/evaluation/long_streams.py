"""Streams of minutes: what they still show of their prompts, how far their light wanders, and frames to look at.

Shapes: T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.training.evaluation.classifier import FrameReader
from ultraflash.training.evaluation.intervals import Measure, mean
from ultraflash.training.evaluation.measures import Clip, adherence
from ultraflash.training.evaluation.streams import TestPrompt, shrunk

MOMENTS = 9
"""Frames that are shown of a stream, its first and its last among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongStream:
    """What is kept of a stream.

    Attributes:
        prompts: in force for equal times, one after the other.
        seconds: of stream.
        start, end: the first and the last frames (T, H, W, 3).
        stays: the last group under each prompt.
        moments: seconds and frames (H, W, 3) at equal distances.
    """

    prompts: tuple[TestPrompt, ...]
    seconds: float
    start: Tensor
    end: Tensor
    stays: tuple[Clip, ...]
    moments: tuple[tuple[float, Tensor], ...]


def long_stream(
    cascade: Cascade,
    prompts: Sequence[TestPrompt],
    *,
    seconds: float,
    size: str,
    seed: int,
    ends_s: float = 10.0,
) -> LongStream:
    """Make a stream that goes from prompt to prompt at equal times.

    Args:
        cascade: makes it.
        prompts: one, or several.
        seconds: of stream, at least.
        size, seed: of the stream.
        ends_s: how long ``start`` and ``end`` are, at least.
    """
    fps = cascade.preset.fps
    total = seconds * fps
    wanted = [round(k * (total - 1) / (MOMENTS - 1)) for k in range(MOMENTS)]
    state = cascade.open(prompts[0].text, size=size, seed=seed)
    number, head, tail = 0, list[Tensor](), list[Tensor]()
    stays, moments = list[Clip](), list[tuple[float, Tensor]]()
    while (made := state.frames_emitted) < total:
        due = min(int(made * len(prompts) / total), len(prompts) - 1)
        if due != number:
            stays.append(Clip(prompt=prompts[number], frames_THWC=tail[-1]))
            cascade.set_prompt(state, prompts[due].text)
            number = due
        group = shrunk(cascade.next_group(state))
        moments += [(i / fps, group[i - made]) for i in wanted if made <= i < made + len(group)]
        if made < ends_s * fps:
            head.append(group)
        tail.append(group)
        while sum(len(kept) for kept in tail[1:]) >= ends_s * fps:
            tail.pop(0)
    stays.append(Clip(prompt=prompts[number], frames_THWC=tail[-1]))
    return LongStream(
        prompts=tuple(prompts),
        seconds=seconds,
        start=torch.cat(head),
        end=torch.cat(tail),
        stays=tuple(stays),
        moments=tuple(moments),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftMeasures:
    """Streams of one prompt: adherence at their ends, and how far brightness and contrast have wandered, as shares."""

    first: dict[str, Measure]
    last: dict[str, Measure]
    brightness: Measure
    contrast: Measure


def drift(streams: Sequence[LongStream], reader: FrameReader) -> DriftMeasures:
    """Compare the first and the last frames of streams of one prompt."""
    brightness, contrast = [], []
    for stream in streams:
        (mean_a, std_a), (mean_b, std_b) = light(stream.start), light(stream.end)
        brightness.append(abs(mean_b - mean_a) / max(mean_a, 1.0))
        contrast.append(abs(std_b - std_a) / max(std_a, 1.0))
    return DriftMeasures(
        first=adherence([Clip(prompt=s.prompts[0], frames_THWC=s.start) for s in streams], reader),
        last=adherence([Clip(prompt=s.prompts[-1], frames_THWC=s.end) for s in streams], reader),
        brightness=mean(brightness),
        contrast=mean(contrast),
    )


def light(frames_THWC: Tensor) -> tuple[float, float]:
    """Mean of the pixels and their deviation within a frame, in [0, 255]."""
    values = frames_THWC.float()
    return float(values.mean()), float(values.std(dim=(1, 2)).mean())
