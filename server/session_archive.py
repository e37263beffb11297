"""Stores sessions as they change, on a thread of its own, so that no stream waits for the database."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from ultraflash.server.errors import UnknownSession
from ultraflash.server.logs import fields
from ultraflash.server.session_store import SessionStore, StoredSession

log = logging.getLogger(__name__)


class SessionArchive:
    """What is put here is stored soon; of several versions of a session that wait only the newest is."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._waiting: dict[str, StoredSession] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sessions")

    def put(self, session: StoredSession) -> None:
        """A session is new, or has changed."""
        with self._lock:
            waits = session.id in self._waiting
            self._waiting[session.id] = session
        if not waits:
            self._thread.submit(self._save, session.id)

    def newest(self, session_id: str) -> StoredSession | None:
        """The newest version of a session, stored or not yet; None where it is not known, or not any more. Blocking."""
        with self._lock:
            waiting = self._waiting.get(session_id)
        return self.store.get(session_id) if waiting is None else self.store.as_saved(waiting)

    def find(self, session_id: str, *, key_id: str | None = None) -> StoredSession:
        """The newest version of a session of that key. Blocking. Raises ``UnknownSession``."""
        found = self.newest(session_id)
        if found is None or found.key_id != key_id:
            raise UnknownSession("There is no such session, or not any more.", param="session_id")
        return found

    def forget_older(self, keep_s: float) -> None:
        """Forgets what was over long ago."""
        self._thread.submit(self._forget_older, keep_s)

    def close(self) -> None:
        """Returns when everything is stored."""
        self._thread.shutdown(wait=True)

    def _save(self, session_id: str) -> None:
        """Stores a session until there is no newer version of it."""
        saved: StoredSession | None = None
        while (session := self._newer(session_id, saved)) is not None:
            saved = session
            try:
                self.store.save(session)
            except SQLAlchemyError:
                # A database that is away for a while is no reason to end a stream; the next change has it all.
                log.exception("a session could not be stored", extra=fields(session=session_id))

    def _newer(self, session_id: str, saved: StoredSession | None) -> StoredSession | None:
        """The version that waits, unless it is the one that was saved, which is then let go."""
        with self._lock:
            waiting = self._waiting[session_id]
            if waiting is not saved:
                return waiting
            del self._waiting[session_id]
            return None

    def _forget_older(self, keep_s: float) -> None:
        try:
            self.store.forget_older(keep_s)
        except SQLAlchemyError:
            log.exception("old sessions could not be forgotten")
