"""How much of a server's live streams each key uses, and whose each session is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ultraflash.models.errors import PromptTooLong
from ultraflash.server.errors import LimitReached, OverLimit
from ultraflash.server.keys.records import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one session uses, and on whose account."""

    caller: Caller
    pixels_per_s: int


class Allowances:
    """Usages of live sessions.

    Args:
        live: ids of the sessions that are not over.
    """

    def __init__(self, live: Callable[[], Iterable[str]]) -> None:
        self._live = live
        self._usages: dict[str, Usage] = {}

    def check_start(self, caller: Caller, pixels_per_s: int) -> None:
        """Whether a key may have one more session. Raises ``LimitReached`` or ``OverLimit``, which say the limit."""
        usages = self._usages_of(caller)
        limit = caller.limits.max_sessions
        if limit is not None and len(usages) >= limit:
            raise LimitReached(
                f"This key has {len(usages)} live sessions, and {limit} is its limit; end one first.",
                param="max_sessions",
            )
        in_use = sum(usage.pixels_per_s for usage in usages.values())
        _check_pixels(caller, pixels_per_s)
        if not _fits(caller, pixels_per_s + in_use):
            raise LimitReached(_beside(caller, pixels_per_s, in_use), param="max_pixels_per_s")

    def check_size(self, session_id: str, pixels_per_s: int) -> None:
        """Whether a session may be of another size, which it is then. Raises ``OverLimit``."""
        usage = self._usages[session_id]
        others = [other for key, other in self._usages_of(usage.caller).items() if key != session_id]
        in_use = sum(other.pixels_per_s for other in others)
        _check_pixels(usage.caller, pixels_per_s)
        if not _fits(usage.caller, pixels_per_s + in_use):
            raise OverLimit(_beside(usage.caller, pixels_per_s, in_use), param="size")
        self._usages[session_id] = replace(usage, pixels_per_s=pixels_per_s)

    def began(self, session_id: str, caller: Caller, pixels_per_s: int) -> None:
        """A session runs on a caller's account until it is over."""
        self._usages[session_id] = Usage(caller=caller, pixels_per_s=pixels_per_s)

    def came_back(self, session_id: str, caller: Caller) -> None:
        """The owner of a session is there again, with the limits that its key has by now."""
        if session_id in self._usages:
            self._usages[session_id] = replace(self._usages[session_id], caller=caller)

    def keys(self) -> dict[str, list[str]]:
        """Live sessions by the key that they run on; those of nobody are left out."""
        found: dict[str, list[str]] = {}
        for session_id, usage in self._current().items():
            if usage.caller.key_id is not None:
                found.setdefault(usage.caller.key_id, []).append(session_id)
        return found

    def _usages_of(self, caller: Caller) -> dict[str, Usage]:
        return {
            session_id: usage
            for session_id, usage in self._current().items()
            if usage.caller.key_id == caller.key_id
        }

    def _current(self) -> dict[str, Usage]:
        """Forgets the usages of sessions that are over."""
        live = set(self._live())
        self._usages = {key: usage for key, usage in self._usages.items() if key in live}
        return self._usages


def check_prompt_length(prompt: str, caller: Caller) -> None:
    """Raises ``PromptTooLong`` for one that is longer than its key may send."""
    limit = caller.limits.max_prompt_chars
    if limit is not None and len(prompt.strip()) > limit:
        raise PromptTooLong(
            f"The prompt has {len(prompt.strip())} characters; this key may send {limit}.", param="prompt"
        )


def _fits(caller: Caller, pixels_per_s: int) -> bool:
    limit = caller.limits.max_pixels_per_s
    return limit is None or pixels_per_s <= limit


def _check_pixels(caller: Caller, wanted: int) -> None:
    """Refuses what would not fit even alone."""
    if not _fits(caller, wanted):
        raise OverLimit(
            f"This would be {wanted} pixels a second, and {caller.limits.max_pixels_per_s} is this key's limit; choose "
            "a smaller size or a lower fps.",
            param="max_pixels_per_s",
        )


def _beside(caller: Caller, wanted: int, in_use: int) -> str:
    return (
        f"This would be {wanted} pixels a second beside the {in_use} of this key's other sessions, and "
        f"{caller.limits.max_pixels_per_s} is its limit; choose a smaller size, or end another session."
    )
