"""WebSockets through the front: one connection here, one to the replica that it belongs to.

A connection is free to move between replicas until it has a session: with ``session.start`` it goes to where a stream
begins soonest, with ``session.resume`` to the replica that runs the session. Then it stays, unless it waits in a queue
while another replica has a place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import websockets
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from ultraflash.server.error_events import error_event
from ultraflash.server.errors import NotReady
from ultraflash.server.outbox import POLICY_VIOLATION
from ultraflash.server.peer import GOOD_BYES, TRY_AGAIN_LATER
from ultraflash.server.protocol import dump_event
from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.http_relay import NoSuchTarget, forwarded_headers, target_of
from ultraflash.server.replicas.replica import Replica

log = logging.getLogger(__name__)

# Seconds of video would wait in a larger one, unseen by the replica, which adapts to what its client has read.
RECEIVE_BUFFER_BYTES = 64 * 1024
OPEN_WITHIN_S = 10.0
# How often a client that waits is looked for a place elsewhere.
RECONSIDER_S = 1.0
# "Service restart": clients come back after it, as after any connection that was lost.
REPLICA_LOST = 1012
HANDSHAKE = {"host", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"}


class ReplicaUnreachable(Exception):
    """A replica that does not take a connection; ``refused`` where it has answered that it does not want it."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class SocketRelay:
    """One client, owner or viewer.

    Args:
        resume_s: how long a session is waited for whose replica is being replaced.
        closing: asked before a new session begins; a front that is being stopped begins none.
        drain_s: how long a front that is being stopped is still there.
    """

    def __init__(
        self,
        websocket: WebSocket,
        directory: Directory,
        *,
        resume_s: float,
        closing: Callable[[], bool],
        drain_s: float,
    ) -> None:
        self._client = websocket
        self._directory = directory
        self._resume_s = resume_s
        self._closing = closing
        self._drain_s = drain_s
        self._replica: Replica | None = None
        self._upstream: ClientConnection | None = None
        self._downstream: asyncio.Task[None] | None = None
        self._authentication: str | None = None
        self._settled = False
        self._start: str | None = None
        self._in_line = False

    async def run_viewer(self, session_id: str) -> None:
        """Relays a viewer of a session."""
        self._settled = True
        replica = await self._directory.owner_of(session_id, patience_s=self._resume_s)
        await self._run(replica or await self._directory.any_one())

    async def run_owner(self) -> None:
        """Relays somebody who is going to start or resume a session."""
        await self._run(await self._directory.for_new_session())

    async def _run(self, replica: Replica | None) -> None:
        try:
            if replica is None:
                raise ReplicaUnreachable("no replica runs")
            await self._move_to(replica)
        except ReplicaUnreachable as error:
            if error.refused:
                await self._client.close(POLICY_VIOLATION, "refused")
                return
            await self._client.accept()
            await self._turn_away(self._directory.retry_after_s())
            return
        await self._client.accept()
        try:
            await self._relay()
        finally:
            await self._hang_up()

    async def _relay(self) -> None:
        """Until either side has closed."""
        receiving = asyncio.ensure_future(self._client.receive())
        while True:
            assert self._downstream is not None
            await asyncio.wait(
                {receiving, self._downstream},
                timeout=None if self._start is None else RECONSIDER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if receiving.done():
                message = receiving.result()
                if message["type"] == "websocket.disconnect":
                    await self._leave(message.get("code"))
                    return
                await self._pass_on(message)
                receiving = asyncio.ensure_future(self._client.receive())
            elif self._downstream.done():
                receiving.cancel()
                return
            elif self._waits:
                await self._reconsider()

    async def _reconsider(self) -> None:
        """Leaves the queue for a replica that has a place, if there is one by now."""
        assert self._replica is not None
        free = await self._directory.free_place(other_than=self._replica)
        if free is None:
            return
        try:
            upstream = await self._dial(free)
        except ReplicaUnreachable:
            return
        # Looking took a while, in which its turn may have come where it is, and so does telling.
        if self._waits:
            try:
                await self._tell(upstream, [self._authentication, self._start])
            except ReplicaUnreachable:
                return
        if not self._waits:
            await upstream.close()
            return
        self._in_line = False
        await self._go_on_with(free, upstream)

    @property
    def _waits(self) -> bool:
        """Whether the client is in a queue with what it wants to start."""
        return self._start is not None and self._in_line

    async def _pass_on(self, message: Any) -> None:
        text = message.get("text")
        if text is not None and not self._settled and not await self._settle(text):
            return
        assert self._upstream is not None
        try:
            await self._upstream.send(message["bytes"] if text is None else text)
        except websockets.ConnectionClosed:
            # The other direction sees it too, and tells the client.
            return

    async def _settle(self, text: str) -> bool:
        """Moves to the replica that this event needs. Returns whether the event is still to be passed on."""
        event = _read(text)
        kind = event.get("type")
        if kind == "session.authenticate":
            self._authentication = text
        if kind not in ("session.start", "session.resume"):
            return True
        if kind == "session.start":
            if self._closing():
                # Not sooner than by then is there another server at this address.
                after_s = max(math.ceil(self._drain_s), self._directory.retry_after_s())
                await self._turn_away(
                    after_s, "This server is being stopped; start the session on another one."
                )
                return False
            wanted = await self._directory.for_new_session(begins=True)
        else:
            session_id = str(event.get("session_id"))
            wanted = await self._directory.owner_of(session_id, patience_s=self._resume_s)
        self._settled = True
        self._start = text if kind == "session.start" else None
        if wanted is None or wanted == self._replica:
            return True
        try:
            await self._move_to(wanted)
        except ReplicaUnreachable:
            await self._turn_away(self._directory.retry_after_s())
            return False
        return True

    async def _move_to(self, replica: Replica) -> None:
        """Connects to a replica, and says who the client is. Raises ``ReplicaUnreachable``."""
        upstream = await self._dial(replica)
        await self._tell(upstream, [self._authentication])
        await self._go_on_with(replica, upstream)

    async def _tell(self, upstream: ClientConnection, said: Sequence[str | None]) -> None:
        """Tells a replica what the client has ``said`` so far. Raises ``ReplicaUnreachable``."""
        try:
            for text in said:
                if text is not None:
                    await upstream.send(text)
        except websockets.ConnectionClosed as closed:
            raise ReplicaUnreachable(str(closed)) from closed

    async def _go_on_with(self, replica: Replica, upstream: ClientConnection) -> None:
        """Leaves the replica where the client is, for one that knows it by now."""
        await self._hang_up()
        self._replica, self._upstream = replica, upstream
        self._downstream = asyncio.create_task(self._pump(upstream))

    async def _dial(self, replica: Replica) -> ClientConnection:
        host, _, port = replica.address.rpartition(":")
        try:
            target = target_of(self._client)
        except NoSuchTarget as error:
            raise ReplicaUnreachable("what was asked for is no path", refused=True) from error
        mine = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mine.setblocking(False)
        headers = [pair for pair in forwarded_headers(self._client) if pair[0] not in HANDSHAKE]
        try:
            await asyncio.get_running_loop().sock_connect(mine, (host, int(port)))
            return await connect(
                f"ws://{self._client.headers.get('host', replica.address)}{target}",
                sock=mine,
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                max_size=None,
                max_queue=1,
                open_timeout=OPEN_WITHIN_S,
                ping_interval=None,
                proxy=None,
            )
        except websockets.InvalidStatus as error:
            raise ReplicaUnreachable(str(error), refused=True) from error
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            mine.close()
            raise ReplicaUnreachable(str(error)) from error

    async def _pump(self, upstream: ClientConnection) -> None:
        """Everything from the replica to the client, each piece only when the one before has gone out."""
        try:
            while True:
                message = await upstream.recv()
                if isinstance(message, str):
                    self._note_place(message)
                    await self._client.send_text(message)
                else:
                    await self._client.send_bytes(message)
        except websockets.ConnectionClosed as closed:
            said = closed.rcvd
            code, reason = (REPLICA_LOST, "replica lost") if said is None else (said.code, said.reason)
            await _quietly(self._client.close(code, reason))
        except (WebSocketDisconnect, RuntimeError) as error:
            log.debug("the client has gone: %s", error)

    def _note_place(self, text: str) -> None:
        """Follows whether the client waits in a queue. What it has said is forgotten when it has its session."""
        if self._start is None and self._settled:
            return
        kind = _read(text).get("type")
        if kind == "queue.status":
            self._in_line = True
        elif kind in ("session.started", "session.done"):
            self._in_line, self._start, self._authentication, self._settled = False, None, None, True
        elif kind == "error" and not self._in_line:
            # Its start is refused, and it may ask for another one, which is free to go elsewhere.
            self._start, self._settled = None, False

    async def _leave(self, code: int | None) -> None:
        """The client has gone: a good-bye is passed on as one, a lost connection as a lost one."""
        assert self._upstream is not None
        if code in GOOD_BYES:
            await self._upstream.close(code)
        else:
            self._upstream.transport.abort()

    async def _hang_up(self) -> None:
        downstream, self._downstream = self._downstream, None
        if downstream is not None:
            downstream.cancel()
            await asyncio.gather(downstream, return_exceptions=True)
        if self._upstream is not None:
            await self._upstream.close()

    async def _turn_away(self, retry_after_s: int, message: str = "No replica answers; try again.") -> None:
        await _quietly(self._client.send_text(dump_event(error_event(NotReady(message)))))
        await _quietly(self._client.close(TRY_AGAIN_LATER, f"Retry-After: {retry_after_s}"))


async def _quietly(sending: Coroutine[Any, Any, None]) -> None:
    """Says something to a client that may have gone."""
    try:
        await sending
    except (WebSocketDisconnect, RuntimeError) as error:
        log.debug("the client has gone: %s", error)


def _read(text: str) -> dict[str, Any]:
    """An event as far as it can be read; what is wrong with it is for the replica to say."""
    try:
        event = json.loads(text)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
