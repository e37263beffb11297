"""Prompts of scenes that nothing was trained on, and the streams that a cascade makes of them.

Shapes: T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
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
        held_out: attributes of the pair that training never saw together; empty for scenes of split "test".
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


def stream_groups(
    cascade: Cascade,
    prompt: str,
    *,
    seconds: float,
    size: str,
    seed: int,
    then: tuple[str, float] | None = None,
) -> Iterator[Tensor]:
    """Groups (T, H, W, 3) of a stream of at least ``seconds``; ``then`` is another prompt and when it is given."""
    state = cascade.open(prompt, size=size, seed=seed)
    fps = cascade.preset.fps
    while state.frames_emitted < seconds * fps:
        if then is not None and state.frames_emitted >= then[1] * fps:
            cascade.set_prompt(state, then[0])
            then = None
        yield cascade.next_group(state)


def make_clip(cascade: Cascade, prompt: str, *, seconds: float, size: str, seed: int) -> Tensor:
    """The frames of a stream as one clip (T, H, W, 3), T = 4F - 3."""
    return torch.cat(list(stream_groups(cascade, prompt, seconds=seconds, size=size, seed=seed)))


def frame_changes(frames_THWC: Tensor) -> list[float]:
    """Mean absolute difference of neighbouring frames, in [0, 255]."""
    return frames_THWC.float().diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
