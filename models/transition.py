"""How a running stream goes from one prompt to the next.

``keep``
    the new prompt acts on new frames; the keys and values of the window stay those made under the old one, which
    pulls towards the old scene until the window has passed.
``recompute``
    the keys and values of the window are made anew under the new prompt, of its clean latents, before the next group:
    the stream follows the new prompt at once. It costs one pass per block of the window.
``fade``
    as ``recompute``, and the frames that are shown go over from the newest one of the old prompt step by step, so
    that a change of scene is no jump: see :mod:`ultraflash.models.fade`.
``blend``
    the text states go from the old prompt's to the new one's in equal steps, one a group; keys and values are kept.

Super-resolution keeps its cache in all of them: it looks a few frames back, for texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ultraflash.models.errors import BadTransition

Transition = Literal["keep", "recompute", "fade", "blend"]

SPREAD: tuple[Transition, ...] = ("fade", "blend")
"""Those that take more than one group."""

MAX_SPREAD_GROUPS = 64


def check_transition(transition: str, groups: int) -> None:
    """Raise BadTransition unless ``transition`` is known, and ``groups`` 1 .. 64 for one that is spread, else 1."""
    if transition not in get_args(Transition):
        raise BadTransition(
            f"a prompt changes by {', '.join(get_args(Transition))}, not {transition!r}", param="transition"
        )
    if not 1 <= groups <= (MAX_SPREAD_GROUPS if transition in SPREAD else 1):
        raise BadTransition(
            f"{' and '.join(SPREAD)} take 1 to {MAX_SPREAD_GROUPS} groups, any other change one, not {groups}",
            param="groups",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChangeConfig:
    """How prompts change where nobody says otherwise.

    Args:
        transition: one of the above.
        groups: over which it is spread; 1 for those that are not.

    Raises:
        BadTransition: they don't go together.
    """

    transition: Transition = "recompute"
    groups: int = 1

    def __post_init__(self) -> None:
        check_transition(self.transition, self.groups)

    @property
    def recomputes(self) -> bool:
        """Whether the window's keys and values are made anew."""
        return self.transition in ("recompute", "fade")

    @property
    def fade_groups(self) -> int:
        """Groups over which frames are mixed."""
        return self.groups if self.transition == "fade" else 0
