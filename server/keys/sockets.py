"""Asks the client of a WebSocket who it is, before it may say anything else."""

from __future__ import annotations

import anyio
from sqlalchemy.exc import OperationalError
from starlette.websockets import WebSocket

from ultraflash.models.errors import UltraflashError
from ultraflash.server.error_events import error_event
from ultraflash.server.errors import NotReady, StartTimeout, Unauthorized
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.records import Caller
from ultraflash.server.metrics import Metrics
from ultraflash.server.outbox import POLICY_VIOLATION
from ultraflash.server.peer import TOO_BIG, TRY_AGAIN_LATER
from ultraflash.server.protocol import SessionAuthenticate, dump_event, parse_client_event


async def caller_of_socket(
    websocket: WebSocket, keyring: Keyring, metrics: Metrics, *, timeout_s: float, max_bytes: int
) -> Caller | None:
    """Who the client of an accepted WebSocket is, by its header or by ``session.authenticate`` as its first event.

    ``max_bytes`` is the length of that event at most: pictures are for those who may come in.

    A client that may not come in is told why and closed; None then, or when it has gone.
    """
    try:
        try:
            header = websocket.headers.get("authorization")
            if header is not None or not await keyring.needs_key():
                return await keyring.caller(header)
            return await _first_event(websocket, keyring, timeout_s, max_bytes)
        except OperationalError as error:
            raise NotReady("The database does not answer; try again.") from error
    except UltraflashError as error:
        metrics.refused.labels(code=error.code).inc()
        await websocket.send_text(dump_event(error_event(error)))
        await websocket.close(TRY_AGAIN_LATER if error.retryable else POLICY_VIOLATION, error.code)
        return None


async def _first_event(
    websocket: WebSocket, keyring: Keyring, timeout_s: float, max_bytes: int
) -> Caller | None:
    """Raises ``Unauthorized``, ``StartTimeout`` or another ``ProtocolError``."""
    with anyio.CancelScope(deadline=anyio.current_time() + timeout_s) as wait:
        message = await websocket.receive()
    if wait.cancelled_caught:
        raise StartTimeout("No session.authenticate came in time.")
    if message["type"] == "websocket.disconnect":
        return None
    text = message.get("text") or ""
    if len(text) > max_bytes:
        await websocket.close(TOO_BIG, "message too big")
        return None
    event = parse_client_event(text)
    if not isinstance(event, SessionAuthenticate):
        raise Unauthorized(
            "This server wants an API key: send session.authenticate with it first, or the header Authorization."
        )
    return await keyring.holder(event.key)
