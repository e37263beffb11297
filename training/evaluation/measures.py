"""The measures of the table in the model card, taken from streams of a cascade.

Shapes: T pixel frames, H W rows and columns, F latent frames, E features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES
from ultraflash.models.transition import Transition
from ultraflash.training.evaluation.camera import pan_of
from ultraflash.training.evaluation.classifier import KINDS, FrameReader
from ultraflash.training.evaluation.intervals import Measure, share
from ultraflash.training.evaluation.realism import frechet_distance
from ultraflash.training.evaluation.streams import (
    Switch,
    TestPrompt,
    frame_changes,
    make_clip,
    stream_groups,
)
from ultraflash.training.vista.painter import render

READ_FRAMES = 2 * PATCH_FRAMES
"""Frames at the end of a clip that its attributes are read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A prompt and the frames (T, H, W, 3) that were made or drawn of it."""

    prompt: TestPrompt
    frames_THWC: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Size and first seed of the streams; stream i has seed + i."""

    size: str
    seed: int = 0


def made_clips(
    cascade: Cascade, prompts: Sequence[TestPrompt], settings: StreamSettings, *, seconds: float
) -> Iterator[Clip]:
    """A stream of every prompt."""
    for i, prompt in enumerate(prompts):
        frames = make_clip(cascade, prompt.text, seconds=seconds, size=settings.size, seed=settings.seed + i)
        yield Clip(prompt=prompt, frames_THWC=frames)


def drawn_clips(prompts: Iterable[TestPrompt], *, frames: int, height: int, width: int) -> Iterator[Clip]:
    """The prompts' own scenes, rendered: what a perfect generator would make."""
    for prompt in prompts:
        yield Clip(prompt=prompt, frames_THWC=render(prompt.scene, frames=frames, height=height, width=width))


def adherence(clips: Sequence[Clip], reader: FrameReader) -> dict[str, Measure]:
    """Share of clips whose last frames show what the prompt names, by attribute and over all; and for prompts with a
    held-out pair the share that shows both halves of it (``pair``)."""
    right: dict[str, list[bool]] = defaultdict(list)
    for clip in clips:
        seen = reader.read(clip.frames_THWC[-READ_FRAMES:])
        claims = {name: value for name, value in clip.prompt.claims.items() if name in KINDS}
        for name, value in claims.items():
            right[name].append(seen[name] == value)
            right["all"].append(seen[name] == value)
        halves = [name for name in clip.prompt.held_out if name in claims]
        if len(halves) == 2:
            right["pair"].append(all(seen[name] == claims[name] for name in halves))
    return {name: share(sum(answers), len(answers)) for name, answers in sorted(right.items())}


def camera(clips: Sequence[Clip]) -> Measure | None:
    """Share of clips with a pan in the prompt that pan that way; None where no prompt has one."""
    pans = [clip for clip in clips if clip.prompt.claims.get("camera") in ("pan left", "pan right")]
    if not pans:
        return None
    right = sum(pan_of(clip.frames_THWC) == clip.prompt.claims["camera"] for clip in pans)
    return share(right, len(pans))


def motion(made: Sequence[Clip], drawn: Sequence[Clip]) -> float:
    """Mean change from frame to frame, as a multiple of that of rendered clips."""
    changes = [
        torch.tensor([change for clip in clips for change in frame_changes(clip.frames_THWC)]).mean()
        for clips in (made, drawn)
    ]
    return float(changes[0] / changes[1].clamp_min(1e-6))


def changes_by_seam(clips: Sequence[Clip], *, group_frames: int) -> dict[str, float]:
    """Mean change from frame to frame of clips of one length 4F - 3, by where the two frames lie: in one latent frame
    (``within``), in two (``latents``), or in two groups of ``group_frames`` latent frames (``groups``). In even motion
    all three are the same."""
    changes = torch.tensor([frame_changes(clip.frames_THWC) for clip in clips]).mean(0).tolist()
    found: dict[str, list[float]] = {"within": [], "latents": [], "groups": []}
    for later, change in enumerate(changes, start=1 + UNTRIMMED_FRAMES):
        latent, within = divmod(later, PATCH_FRAMES)
        kind = "within" if within else "latents" if latent % group_frames else "groups"
        found[kind].append(change)
    return {kind: sum(values) / len(values) for kind, values in found.items() if values}


def realism(
    made: Sequence[Clip], drawn: Sequence[Clip], others: Sequence[Clip], reader: FrameReader
) -> float:
    """Frechet distance of made to drawn frames, as a multiple of that of drawn to other drawn ones."""
    features = [
        torch.cat([reader.features(clip.frames_THWC[-READ_FRAMES:]) for clip in clips])
        for clips in (made, drawn, others)
    ]
    return frechet_distance(features[0], features[1]) / frechet_distance(features[2], features[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchMeasures:
    """How streams take a new prompt.

    Attributes:
        adherence: to the new prompt, at the end.
        without_jump: share of the streams whose picture does not jump after the change.
        ordinary_without_jump: the same of streams without a change: more cannot be asked of one with it.
    """

    adherence: dict[str, Measure]
    without_jump: Measure
    ordinary_without_jump: Measure


def prompt_switch(
    cascade: Cascade,
    prompts: Sequence[TestPrompt],
    reader: FrameReader,
    settings: StreamSettings,
    *,
    before_s: float = 3.0,
    after_s: float = 3.0,
    transition: Transition | None = None,
    groups: int = 1,
    ordinary: Sequence[Clip],
) -> SwitchMeasures:
    """Streams that begin with one prompt and go on with the next, by a transition over so many groups or as
    the preset says.

    A jump is a change between two frames after the switch above the 99th percentile of the changes in ``ordinary``
    clips.
    """
    usual = [frame_changes(clip.frames_THWC) for clip in ordinary]
    limit = float(torch.tensor([change for changes in usual for change in changes]).quantile(0.99))
    switched, smooth = [], 0
    for i, (first, second) in enumerate(zip(prompts, [*prompts[1:], prompts[0]], strict=True)):
        made = stream_groups(
            cascade,
            first.text,
            seconds=before_s + after_s,
            size=settings.size,
            seed=settings.seed + i,
            then=Switch(prompt=second.text, at_s=before_s, transition=transition, groups=groups),
        )
        frames = torch.cat(list(made))
        switched.append(Clip(prompt=second, frames_THWC=frames))
        after = frames[int(before_s * cascade.preset.fps) :]
        smooth += max(frame_changes(after)) <= limit
    return SwitchMeasures(
        adherence=adherence(switched, reader),
        without_jump=share(smooth, len(switched)),
        ordinary_without_jump=share(sum(max(changes) <= limit for changes in usual), len(usual)),
    )
