"""What the cascade needs of a text encoder, and the shape of one.

Shape legend: X tokens, W width of a token's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import Tensor

from ultraflash.models.errors import BadConfig

TextKind = Literal["minilm", "umt5"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which text encoder, and what it makes. The defaults are those of `mini`.

    Args:
        kind: ``minilm`` (comes with the package) or ``umt5`` (Wan's, by transformers).
        tokens, width: X and W.
    """

    kind: TextKind = "minilm"
    tokens: int = 64
    width: int = 384

    def __post_init__(self) -> None:
        if self.kind not in get_args(TextKind):
            raise BadConfig(
                f"a text encoder is {' or '.join(get_args(TextKind))}, not {self.kind!r}", param="text"
            )
        if min(self.tokens, self.width) < 1:
            raise BadConfig("tokens and width of the text start at 1", param="text")


class TextEncoder(Protocol):
    """Turns prompts into token states."""

    @property
    def tokens(self) -> int:
        """Rows of an encoded prompt."""

    @property
    def width(self) -> int:
        """Columns of an encoded prompt."""

    def check(self, prompt: str) -> None:
        """Raise PromptTooLong for a prompt of more tokens than are read."""

    def encode(self, prompt: str) -> Tensor:
        """float32 (X, W) on the CPU, rows past the prompt's last token zero. Raises PromptTooLong."""
