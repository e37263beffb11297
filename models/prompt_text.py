"""What any prompt has to be, before an encoder of text is asked."""

from __future__ import annotations

from ultraflash.models.errors import EmptyPrompt, PromptTooLong


def plain_prompt(prompt: str, *, model: str, max_chars: int) -> str:
    """Return ``prompt`` without outer white space, or raise EmptyPrompt or PromptTooLong.

    Args:
        prompt: as somebody has written it.
        model: whose limit it is, for the message.
        max_chars: longest prompt.
    """
    stripped = prompt.strip()
    if not stripped:
        raise EmptyPrompt("the prompt is empty; describe what to show", param="prompt")
    if len(stripped) > max_chars:
        raise PromptTooLong(
            f"the prompt has {len(stripped)} characters; {model} accepts {max_chars}", param="prompt"
        )
    return stripped
