"""The cheap part of what the engine checks of a prompt, answered without waiting for the group in work."""

from __future__ import annotations

from ultraflash.models.errors import EmptyPrompt, PromptTooLong
from ultraflash.server.worker.messages import WorkerReady


def usable_prompt(prompt: str, ready: WorkerReady) -> str:
    """The prompt without outer white space. Raises ``EmptyPrompt`` or ``PromptTooLong``."""
    stripped = prompt.strip()
    if not stripped:
        raise EmptyPrompt("The prompt is empty; describe what to show.", param="prompt")
    if len(stripped) > ready.max_prompt_chars:
        raise PromptTooLong(
            f"The prompt has {len(stripped)} characters; {ready.max_prompt_chars} are accepted.",
            param="prompt",
        )
    return stripped
