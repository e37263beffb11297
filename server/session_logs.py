"""Where the log of a session can be found, for those who may have it: among the live ones, beside its recording, or in
the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ultraflash.server.access import Grant
from ultraflash.server.errors import BadToken, UnknownSession
from ultraflash.server.jobs.bodies import validated
from ultraflash.server.jobs.wire import ReplayLog
from ultraflash.server.recording import read_log
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.session_registry import SessionRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLog:
    """A session's log, the grants of the tokens that open it, and whose it is.

    Attributes:
        key_id: of the API key that it was made with; of a recording nothing but its token is asked.
    """

    log: ReplayLog
    grants: Sequence[Grant]
    key_id: str | None = None
    recorded: bool = False


class LogShelf(Protocol):
    """A place where logs of sessions are kept."""

    def get(self, session_id: str) -> KeptLog | None:
        """The log of a session, None where it is not known here."""


class LiveLogs:
    """The logs of sessions that are live or resting."""

    def __init__(self, sessions: SessionRegistry) -> None:
        self._sessions = sessions

    def get(self, session_id: str) -> KeptLog | None:
        """The log so far, for the session's owner."""
        try:
            session = self._sessions.find(session_id)
        except UnknownSession:
            return None
        # One that has not begun has nothing to be made again.
        if not session.replay["events"]:
            return None
        return KeptLog(
            log=validated(session.replay, ReplayLog), grants=(session.owner_grant,), key_id=session.key_id
        )


class RecordedLogs:
    """The logs that lie beside recordings."""

    def __init__(self, recordings: Path) -> None:
        self._recordings = recordings

    def get(self, session_id: str) -> KeptLog | None:
        """The log, for those who may have the recording."""
        document = read_log(self._recordings, session_id)
        if document is None:
            return None
        # Where a server was killed in the middle, what it noted last is somewhat less than what it sent.
        noted = {"frames": sum(part["frames"] for part in document["parts"]), **document}
        fields = {name: noted[name] for name in ReplayLog.model_fields if name in noted}
        return KeptLog(log=validated(fields, ReplayLog), grants=(Grant(**document["token"]),), recorded=True)


class StoredLogs:
    """The logs in the database, or on their way there, which outlive the server."""

    def __init__(self, archive: SessionArchive) -> None:
        self._archive = archive

    def get(self, session_id: str) -> KeptLog | None:
        """The log, for the session's owner."""
        stored = self._archive.newest(session_id)
        if stored is None:
            return None
        return KeptLog(log=validated(stored.replay, ReplayLog), grants=(stored.owner,), key_id=stored.key_id)


class SessionLogs:
    """All places, asked in their order."""

    def __init__(self, *shelves: LogShelf) -> None:
        self._shelves = shelves

    def find(self, session_id: str, token: str | None, key_id: str | None) -> ReplayLog:
        """The log of a session of this key.

        Raises ``UnknownSession``, ``BadToken``, or ``InvalidField`` for too long a one.
        """
        found = [one for shelf in self._shelves if (one := shelf.get(session_id)) is not None]
        kept = [one for one in found if one.recorded or one.key_id == key_id]
        if not kept:
            raise UnknownSession(
                "This session is not known here any more, or never was; send its log as replay.",
                param="session_id",
            )
        for one in kept:
            if any(_opens(grant, token or "") for grant in one.grants):
                return one.log
        raise BadToken(
            "A session is replayed for its owner: give its resume_token, or the token of its recording, as token.",
            param="token",
        )


def _opens(grant: Grant, token: str) -> bool:
    try:
        grant.check(token)
    except BadToken:
        return False
    return True
