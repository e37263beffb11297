"""Changes that an owner has asked for and that have not been shown yet."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ultraflash.server.errors import InvalidField, TooManyPending
from ultraflash.server.protocol import PromptUpdate, SessionControl

MAX_WAITING = 64

Change = PromptUpdate | SessionControl


class PendingChanges:
    """Prompts and sizes by their event ids, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._waiting: dict[str, Change] = {}
        self._asked_at: dict[str, float] = {}
        self._shown_from: dict[str, float] = {}

    def __iter__(self) -> Iterator[Change]:
        return iter(list(self._waiting.values()))

    def check_room(self, event_id: str) -> None:
        """Raises ``TooManyPending`` where no further change can wait."""
        if len(self._waiting) >= MAX_WAITING and event_id not in self._waiting:
            raise TooManyPending(
                f"{MAX_WAITING} changes wait for the next group already; wait for prompt.applied.",
                event_id=event_id,
            )

    def add(self, change: Change) -> None:
        """A change waits from now on.

        Raises ``InvalidField`` for a cut over several groups, and for the event id of a change of another kind.
        """
        if isinstance(change, PromptUpdate) and change.transition == "cut" and change.groups is not None:
            raise InvalidField(
                "prompt.update takes groups with the transitions 'fade' and 'blend'; a cut shows in the next group.",
                param="groups",
                event_id=change.event_id,
            )
        waiting = self._waiting.get(change.event_id)
        if waiting is not None and type(waiting) is not type(change):
            raise InvalidField(
                f"The event_id {change.event_id!r} is that of a change of another kind, which waits; take another one.",
                param="event_id",
                event_id=change.event_id,
            )
        self._waiting[change.event_id] = change
        if isinstance(change, PromptUpdate):
            self._asked_at[change.event_id] = time.monotonic()

    def forget(self, event_id: str) -> None:
        """A change was refused."""
        self._waiting.pop(event_id, None)
        self._asked_at.pop(event_id, None)

    def prompt_shown(self, event_id: str, first_us: float) -> PromptUpdate | None:
        """A prompt takes effect at a frame. Returns it, if it was still waiting."""
        asked = self._waiting.pop(event_id, None)
        self._shown_from[event_id] = first_us
        return asked if isinstance(asked, PromptUpdate) else None

    def size_shown(self, event_id: str) -> None:
        """Of several sizes asked for before one group only the last one is shown and reported."""
        for waiting_id, event in list(self._waiting.items()):
            if isinstance(event, SessionControl):
                del self._waiting[waiting_id]
            if waiting_id == event_id:
                return

    def seconds_until(self, pts_us: float) -> list[float]:
        """For each prompt whose first frame has come with ``pts_us``: how long that took."""
        now = time.monotonic()
        took = []
        for event_id, first_us in list(self._shown_from.items()):
            if pts_us >= first_us:
                del self._shown_from[event_id]
                asked_at = self._asked_at.pop(event_id, None)
                took += [] if asked_at is None else [now - asked_at]
        return took
