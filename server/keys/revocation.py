"""Ends live sessions whose key has been revoked or has expired; requests notice that by themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from ultraflash.server.errors import UnknownSession
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.logs import fields

if TYPE_CHECKING:
    from ultraflash.server.stream_server import StreamServer

log = logging.getLogger(__name__)

REASON = "key_revoked"


async def end_sessions_of_dead_keys(server: StreamServer, keyring: Keyring) -> None:
    """Looks through them once. While keys cannot be looked up, which raises, live sessions go on.

    The database is asked though no session has a key: new ones cannot begin without it either.
    """
    sessions = server.allowances.keys()
    alive = await run_in_threadpool(keyring.store.still_active, set(sessions))
    for key_id in set(sessions) - alive:
        for session_id in sessions[key_id]:
            log.info("the key of a session is no longer good", extra=fields(session=session_id, key=key_id))
            _end(server, session_id)


def _end(server: StreamServer, session_id: str) -> None:
    try:
        session = server.sessions.find(session_id)
    except UnknownSession:
        # It ended while the keys were looked up.
        return
    session.abandon(REASON)
