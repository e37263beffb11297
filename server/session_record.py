"""What stays of a session: its log, and the recording if one was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ultraflash.server.recording import Recording
from ultraflash.server.session_log import SessionLog
from ultraflash.server.session_store import StoredSession
from ultraflash.server.stream_position import StreamPosition


class SessionRecord:
    """Keeps the log of a session, in its recording too.

    Attributes:
        log: of what was asked for and when.
        recording: where the owner wanted one.
    """

    def __init__(
        self,
        position: StreamPosition,
        recording: Recording | None,
        changed: Callable[[], None],
        before: StoredSession | None,
        *,
        image: str | None,
    ) -> None:
        """Begins a log, or goes on with the one ``before``; ``changed`` is called after each entry.

        ``image`` is the id of the picture that the stream starts from; None for none.
        """
        self.log = SessionLog(position.seed, self._note, image=image, before=before)
        self.recording = recording
        self._position = position
        self._changed = changed

    @property
    def replay(self) -> dict[str, Any]:
        """What it takes to make the session again, as it stands."""
        return self.log.replay(self._position.next_index)

    @property
    def in_progress(self) -> bool:
        """Whether files are still being written."""
        return self.recording is not None and not self.recording.finished

    def complete(self, reason: str, then: Callable[[list[str] | None], None]) -> None:
        """Calls back with the addresses of the recording once it is complete; at once, with None, without one."""
        if self.recording is None:
            then(None)
        else:
            self.recording.finish(self.replay, reason, then)

    def end_early(self) -> None:
        """Records no more; the session goes on."""
        if self.recording is not None:
            self.recording.end_early()

    def discard(self) -> None:
        """Forgets the recording of a session that did not begin."""
        if self.recording is not None:
            self.recording.discard()

    def wait(self) -> None:
        """Blocks until the recording of a session that is over is on the disk."""
        if self.recording is not None:
            self.recording.wait()

    def _note(self) -> None:
        self._changed()
        if self.recording is not None:
            self.recording.note(self.replay)
