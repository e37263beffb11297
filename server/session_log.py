"""What a session was asked for and when: enough to make it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ultraflash.server.protocol import PromptUpdate
from ultraflash.server.session_store import StoredSession
from ultraflash.server.worker.messages import PromptShown, SizeShown


class SessionLog:
    """The seed, and each change with its time and the number of its group in the engine's state.

    Args:
        seed: of the noise.
        changed: called after each entry.
        image: id of the picture that the stream starts from; None for none.
        before: what has been logged before this server took the session over.
    """

    def __init__(
        self,
        seed: int,
        changed: Callable[[], None],
        *,
        image: str | None = None,
        before: StoredSession | None = None,
    ) -> None:
        self.seed = seed
        self._image = image
        self.model = "" if before is None else before.model
        self._changed = changed
        self._fps: int | None = None if before is None else before.opened["fps"]
        self._events: list[dict[str, Any]] = (
            [] if before is None else [dict(event) for event in before.events]
        )

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """The entries so far."""
        return tuple(self._events)

    def began(self, *, model: str, fps: int, prompt: str, size: str) -> None:
        """The stream was opened."""
        self.model, self._fps = model, fps
        self._add({"first_pts_us": 0.0, "group": 0, "prompt": prompt, "size": size})

    def restarted(self, first_pts_us: float, *, prompt: str, size: str) -> None:
        """A new engine state of the same seed goes on from here; its groups count from 0."""
        self._add(
            {"first_pts_us": first_pts_us, "group": 0, "restarted": True, "prompt": prompt, "size": size}
        )

    def prompt_shown(self, report: PromptShown, change: PromptUpdate) -> None:
        """A prompt took effect."""
        entry = {"first_pts_us": report.first_pts_us, "group": report.group, "prompt": change.prompt}
        # A cut goes without saying.
        if change.transition != "cut":
            entry |= {"transition": change.transition, "groups": change.spread}
        self._add(entry)

    def size_shown(self, report: SizeShown) -> None:
        """A size, or less or more detail of it, took effect."""
        entry = {"first_pts_us": report.first_pts_us, "group": report.group, "size": report.size}
        # All of the attention goes without saying.
        if report.sr_share != 1:
            entry["sr_share"] = report.sr_share
        self._add(entry)

    def changes_since(self, pts_us: float) -> list[dict[str, Any]]:
        """What took effect at that time or later, in the newest engine state."""
        found: list[dict[str, Any]] = []
        for entry in reversed(self._events):
            if entry["first_pts_us"] < pts_us or entry.get("restarted"):
                break
            found.append(entry)
        return found[::-1]

    def replay(self, frames: int) -> dict[str, Any]:
        """All of it as JSON values, with the number of frames made so far."""
        return {
            "model": self.model,
            "seed": self.seed,
            "fps": self._fps,
            "frames": frames,
            "events": list(self._events),
            **({} if self._image is None else {"image": self._image}),
        }

    def _add(self, entry: dict[str, Any]) -> None:
        self._events.append(entry)
        self._changed()
