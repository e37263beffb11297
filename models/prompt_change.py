"""How a running stream goes from one prompt to the next.

``keep``
    the new prompt acts on new frames; the keys and values of the window stay those made under the old one, which
    pulls towards the old scene until the window has passed.
``recompute``
    the keys and values of the window are made anew under the new prompt, of its clean latents, before the next group:
    the picture goes on from where it was and follows the new prompt at once. It costs one pass per block of the window.
``blend``
    the text states go from the old prompt's to the new one's in equal steps, one a group; keys and values are kept.

Super-resolution keeps its cache in all three: it looks a few frames back, for texture.

Shapes: X text tokens, W text width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from ultraflash.models.errors import BadTransition
from ultraflash.models.stream_state import PromptBlend

Transition = Literal["keep", "recompute", "blend"]

MAX_BLEND_GROUPS = 64


def check_transition(transition: str, groups: int) -> None:
    """Raise BadTransition unless ``transition`` is known, and ``groups`` 1 .. 64 for a blend and 1 otherwise."""
    if transition not in get_args(Transition):
        raise BadTransition(
            f"a prompt changes by {', '.join(get_args(Transition))}, not {transition!r}", param="transition"
        )
    if not 1 <= groups <= (MAX_BLEND_GROUPS if transition == "blend" else 1):
        raise BadTransition(
            f"a blend takes 1 to {MAX_BLEND_GROUPS} groups, any other change one, not {groups}",
            param="groups",
        )


def blend_between(source_1XW: Tensor, target_1XW: Tensor, groups: int) -> PromptBlend:
    """A blend that has not begun; the shorter of the two gets rows of zeros, which is what missing ones count as."""
    rows = max(source_1XW.shape[1], target_1XW.shape[1])
    source, target = (F.pad(x, (0, 0, 0, rows - x.shape[1])) for x in (source_1XW, target_1XW))
    return PromptBlend(source_1XW=source, target_1XW=target, groups=groups)
