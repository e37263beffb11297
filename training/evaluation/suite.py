"""One evaluation of a cascade that knows Vista: which streams are made and which measures are taken of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import BadConfig
from ultraflash.training.evaluation.classifier import FrameReader
from ultraflash.training.evaluation.intervals import Measure
from ultraflash.training.evaluation.long_streams import LongStream, drift, long_stream
from ultraflash.training.evaluation.measures import (
    Clip,
    StreamSettings,
    adherence,
    camera,
    changes_by_seam,
    drawn_clips,
    made_clips,
    motion,
    prompt_switch,
    realism,
)
from ultraflash.training.evaluation.pictures import picture_quality
from ultraflash.training.evaluation.streams import SHRINK, TestPrompt, make_prompts

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig:
    """How much is made.

    Args:
        prompts, held_out_prompts: streams for adherence, of seen pairs and of pairs that the generator never saw.
        seconds: of each.
        pictures: rendered clips for the autoencoder and super-resolution.
        switches: streams that change their prompt.
        long_streams, long_seconds: streams of one prompt for drift; none where either is 0.
        long_changes: changes of prompt in one more stream of that length; 0 leaves it out.
        size: of all streams; the preset's default if None.
        seed: of prompts and streams.
    """

    prompts: int = 64
    held_out_prompts: int = 32
    seconds: float = 2.7
    pictures: int = 8
    switches: int = 16
    long_streams: int = 4
    long_seconds: float = 120.0
    long_changes: int = 4
    size: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompts, self.held_out_prompts, self.switches) < 2 or self.seconds <= 0:
            raise BadConfig("prompts, held_out_prompts and switches start at 2, seconds above 0")
        if not 1 <= self.pictures <= self.prompts:
            raise BadConfig("pictures start at 1, and are as many as prompts at most", param="pictures")
        if min(self.long_streams, self.long_seconds, self.long_changes) < 0:
            raise BadConfig("long_streams, long_seconds and long_changes are not negative")


QUICK = SuiteConfig(
    prompts=16,
    held_out_prompts=8,
    pictures=2,
    switches=4,
    long_streams=1,
    long_seconds=30.0,
    long_changes=0,
)
"""Minutes instead of a quarter of an hour; its intervals are wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """The measures as plain data for JSON, and what to look at: ``drawn_clips`` show the scenes of ``clips``."""

    measures: dict[str, Any]
    clips: list[Clip] = field(default_factory=list)
    held_out_clips: list[Clip] = field(default_factory=list)
    drawn_clips: list[Clip] = field(default_factory=list)
    long_streams: list[LongStream] = field(default_factory=list)


def evaluate(cascade: Cascade, reader: FrameReader, config: SuiteConfig, *, say: Say) -> SuiteResult:
    """Make the streams and take the measures.

    Args:
        cascade: what is judged.
        reader: who judges.
        config: how much.
        say: told of every step.
    """
    settings = StreamSettings(size=config.size or cascade.preset.default_size, seed=config.seed)
    size = cascade.preset.size(settings.size)
    started = time.monotonic()

    seen_prompts = make_prompts(config.prompts, split="test", seed=config.seed)
    rare_prompts = make_prompts(config.held_out_prompts, split="held_out", seed=config.seed)
    say(f"{config.prompts} streams of seen pairs, {config.held_out_prompts} of held-out ones")
    seen = list(made_clips(cascade, seen_prompts, settings, seconds=config.seconds))
    rare = list(made_clips(cascade, rare_prompts, settings, seconds=config.seconds))

    say("the same scenes rendered, and as many others")
    frames = seen[0].frames_THWC.shape[0]
    height, width = size.height // SHRINK, size.width // SHRINK
    drawn = list(drawn_clips(seen_prompts, frames=frames, height=height, width=width))
    drawn_rare = list(drawn_clips(rare_prompts, frames=frames, height=height, width=width))
    other_prompts = make_prompts(config.prompts, split="test", seed=config.seed + 1)
    others = list(drawn_clips(other_prompts, frames=frames, height=height, width=width))

    say(f"{config.pictures} rendered clips through the autoencoder and super-resolution")
    pictures = picture_quality(cascade, seen_prompts[: config.pictures], size=settings.size)

    say(f"{config.switches} streams with a change of prompt")
    switch = prompt_switch(cascade, seen_prompts[: config.switches], reader, settings, ordinary=seen)
    measures: dict[str, Any] = {
        "classifier": adherence(drawn, reader),
        "classifier_held_out": adherence(drawn_rare, reader),
        "pictures": pictures,
        "adherence": adherence(seen, reader),
        "held_out": adherence(rare, reader),
        "camera_rendered": camera(drawn),
        "camera": camera(seen),
        "motion_ratio": motion(seen, drawn),
        "changes": changes_by_seam(seen, group_frames=cascade.preset.group_frames),
        "changes_rendered": changes_by_seam(drawn, group_frames=cascade.preset.group_frames),
        "realism_ratio": realism(seen, drawn, others, reader),
        "switch_adherence": switch.adherence,
        "switch_without_jump": switch.without_jump,
        "ordinary_without_jump": switch.ordinary_without_jump,
    }
    long = evaluate_long(cascade, reader, config, say=say)
    measures["minutes"] = (time.monotonic() - started) / 60
    return SuiteResult(
        measures=_plain(measures) | long.measures,
        clips=seen,
        held_out_clips=rare,
        drawn_clips=drawn,
        long_streams=long.long_streams,
    )


def evaluate_long(cascade: Cascade, reader: FrameReader, config: SuiteConfig, *, say: Say) -> SuiteResult:
    """The long streams of :func:`evaluate` alone, which takes the same; none where ``config`` wants none."""
    measures: dict[str, Any] = {}
    streams: list[LongStream] = []
    if not config.long_seconds:
        return SuiteResult(measures=measures)
    size = config.size or cascade.preset.default_size
    ends_s = min(10.0, config.long_seconds / 3)
    prompts = make_prompts(max(config.long_streams, config.long_changes + 1), split="test", seed=config.seed)

    def make(number: int, of_stream: list[TestPrompt]) -> LongStream:
        say(f"a stream of {config.long_seconds:g} s with {len(of_stream) - 1} changes of prompt")
        return long_stream(
            cascade,
            of_stream,
            seconds=config.long_seconds,
            size=size,
            seed=config.seed + number,
            ends_s=ends_s,
        )

    streams += [make(i, [prompt]) for i, prompt in enumerate(prompts[: config.long_streams])]
    if streams:
        wander = drift(streams, reader)
        measures |= {f"drift_{name}": value for name, value in _fields(wander).items()}
        measures["drift_adherence_lost"] = wander.first["all"].value - wander.last["all"].value
    if config.long_changes:
        changing = make(config.long_streams, prompts[: config.long_changes + 1])
        streams.append(changing)
        measures["long_changes_adherence"] = adherence(changing.stays, reader)
    return SuiteResult(measures=_plain(measures), long_streams=streams)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _plain(value: Any) -> Any:
    """Dataclasses and tensors as JSON takes them."""
    if isinstance(value, Measure):
        return asdict(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value
