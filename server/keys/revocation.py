"""Ends live sessions whose key has been revoked or has expired; requests notice that by themselves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from ultraflash.server.errors import UnknownSession
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.logs import fields

if TYPE_CHECKING:
    from ultraflash.server.stream_server import StreamServer

log = logging.getLogger(__name__)

REASON = "key_revoked"


async def end_sessions_of_dead_keys(server: StreamServer, keyring: Keyring, every_s: float) -> None:
    """Looks through them until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        sessions = server.allowances.keys()
        if not sessions:
            continue
        try:
            alive = await run_in_threadpool(keyring.store.still_active, set(sessions))
        except SQLAlchemyError as error:
            log.warning("live sessions go on, since their keys cannot be looked up: %s", error)
            continue
        for key_id in set(sessions) - alive:
            for session_id in sessions[key_id]:
                log.info(
                    "the key of a session is no longer good", extra=fields(session=session_id, key=key_id)
                )
                _end(server, session_id)


def _end(server: StreamServer, session_id: str) -> None:
    try:
        session = server.sessions.find(session_id)
    except UnknownSession:
        # It ended while the keys were looked up.
        return
    session.abandon(REASON)
