"""Prompts of scenes that nothing was trained on, and the streams that a cascade makes of them.

Shapes: T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.transition import Transition
from ultraflash.training.seeding import counter_seed
from ultraflash.training.vista.captions import attributes_in, caption
from ultraflash.training.vista.scene import Scene, held_out_pairs_of, sample_scene


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPrompt:
    """A caption of an unseen scene.

    Args:
        scene: what it describes.
        text: the caption.
        claims: attributes that its words name, with their values.
        held_out: attributes of the pair that the generator never saw together; empty for scenes of split "test".
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    scene: Scene
    text: str
    claims: dict[str, str]
    held_out: tuple[str, ...]


def make_prompts(count: int, *, split: str, seed: int) -> list[TestPrompt]:
    """``count`` prompts of split "test" or "held_out"."""
    prompts = []
    for number in range(count):
        scene = sample_scene(counter_seed(seed, "evaluation scene", split, number), split)
        text = caption(scene, number)
        claims = attributes_in(text)
        if scene.object_color is not None:
            claims["object_color"] = scene.object_color
        pairs = held_out_pairs_of(scene)
        held_out = tuple(name for name, _ in pairs[0]) if pairs else ()
        prompts.append(TestPrompt(scene=scene, text=text, claims=claims, held_out=held_out))
    return prompts


SHRINK = 2
"""Frames are looked at in half their size: it is what the classifier reads, and a quarter of the memory."""


def shrunk(frames_THWC: Tensor, factor: int = SHRINK) -> Tensor:
    """uint8 frames, smaller by ``factor`` in both directions."""
    small = functional.avg_pool2d(frames_THWC.permute(0, 3, 1, 2).float(), factor)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A change of prompt.

    Args:
        prompt: the new one.
        at_s: seconds of stream after which it comes.
        transition, groups: how, see :mod:`ultraflash.models.transition`; as the preset says by default.
    """

    prompt: str
    at_s: float
    transition: Transition | None = None
    groups: int = 1


def stream_groups(
    cascade: Cascade,
    prompt: str,
    *,
    seconds: float,
    size: str,
    seed: int,
    then: Switch | None = None,
) -> Iterator[Tensor]:
    """Shrunk groups (T, H, W, 3) of a stream of at least ``seconds``, of which those after a switch count from the
    frame that it acts on."""
    state = cascade.open(prompt, size=size, seed=seed)
    fps = cascade.preset.fps
    end = seconds * fps
    while state.frames_emitted < end:
        if then is not None and state.frames_emitted >= then.at_s * fps:
            cascade.set_prompt(state, then.prompt, transition=then.transition, groups=then.groups)
            end, then = state.frames_emitted + (seconds - then.at_s) * fps, None
        yield shrunk(cascade.next_group(state))


def make_clip(cascade: Cascade, prompt: str, *, seconds: float, size: str, seed: int) -> Tensor:
    """The frames of a stream as one clip (T, H, W, 3), T = 4F - 3."""
    return torch.cat(list(stream_groups(cascade, prompt, seconds=seconds, size=size, seed=seed)))


def frame_changes(frames_THWC: Tensor) -> list[float]:
    """Mean absolute difference of neighbouring frames, in [0, 255]."""
    return frames_THWC.short().diff(dim=0).abs().float().mean(dim=(1, 2, 3)).tolist()
