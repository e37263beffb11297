"""A prompt as the transformers of a cascade take it.

Shapes: B batch (1), X text tokens, W text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import Preset
from ultraflash.models.stream_state import PromptContext
from ultraflash.models.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEncoder:
    """The text encoder, and the transformers that make keys and values of what it says.

    Attributes:
        sr: those of super-resolution, by part; none where base latents are decoded.
    """

    preset: Preset
    text: TextEncoder
    base: CausalDiT
    sr: Mapping[str, CausalDiT]
    device: torch.device

    def check_widths(self) -> None:
        """Raise BadConfig where the preset's transformers want another text encoder."""
        text = self.text
        wanted = [("base", self.preset.base.dit)] + ([("sr", self.preset.sr.dit)] if self.preset.sr else [])
        for part, dit in wanted:
            if (dit.text_tokens, dit.text_dim) != (text.tokens, text.width):
                raise BadConfig(
                    f"{part} takes {dit.text_tokens} text tokens of width {dit.text_dim}, "
                    f"but the encoder makes {text.tokens} of width {text.width}",
                    param=f"{part}.dit.text_tokens",
                )

    def check(self, prompt: str) -> str:
        """The prompt as it will be used. Raises EmptyPrompt, PromptTooLong."""
        checked = self.preset.check_prompt(prompt)
        self.text.check(checked)
        return checked

    def encode(self, prompt: str) -> PromptContext:
        """What a stream carries of a prompt. Raises EmptyPrompt, PromptTooLong."""
        checked = self.check(prompt)
        return self.context(checked, self.text.encode(checked).to(self.device)[None])

    def context(self, prompt: str, states_1XW: Tensor) -> PromptContext:
        """The same of text states that are there already, whatever prompt they are of."""
        sr = {part: net.encode_text(states_1XW) for part, net in self.sr.items()}
        base = self.base.encode_text(states_1XW)
        return PromptContext(prompt=prompt, states_1XW=states_1XW, base=base, sr=sr)
