"""The WebSocket of a viewer: it joins with a token, watches, and cannot steer."""

from __future__ import annotations

from starlette.websockets import WebSocket

from ultraflash.models.errors import UltraflashError
from ultraflash.server.errors import Busy, NotTheOwner, UnknownSession
from ultraflash.server.outbox import POLICY_VIOLATION, Outbox
from ultraflash.server.peer import TRY_AGAIN_LATER, Peer
from ultraflash.server.protocol import (
    ClientEvent,
    KeyframeRequest,
    PlaybackAck,
    SessionPing,
    SessionPong,
    SessionStop,
    Transport,
)
from ultraflash.server.seat import Seat
from ultraflash.server.sessions import LiveSession
from ultraflash.server.stream_server import StreamServer
from ultraflash.server.wall_clock import unix_ms

VIEWER_MEDIA_BYTES = 4 * 1024 * 1024
DONE = 1000


def find_for_viewer(server: StreamServer, session_id: str, token: str) -> LiveSession:
    """The live session that a token lets somebody watch.

    Raises ``UnknownSession``, ``BadToken``, or ``Busy`` where all places are taken.
    """
    session = server.sessions.find(session_id)
    if session.over:
        raise UnknownSession("This session has ended.")
    session.viewer_grant.check(token)
    limit = server.settings.stream.max_viewers
    if len(session.audience.viewers) >= limit:
        raise Busy(f"All {limit} places for viewers are taken; try again later.")
    return session


class ViewerConnection(Peer):
    """Everything about one viewer."""

    def __init__(self, websocket: WebSocket, server: StreamServer, transport: Transport) -> None:
        outbox = Outbox(self._request_key, max_media_bytes=VIEWER_MEDIA_BYTES)
        super().__init__(
            websocket,
            outbox,
            limits=server.settings.stream,
            metrics=server.metrics,
            max_message_bytes=server.settings.http.max_message_bytes,
        )
        self._server = server
        self._seat = Seat(outbox, transport)
        self._session: LiveSession | None = None

    def join(self, session_id: str, token: str) -> None:
        """Takes a place at the session; what stands against it is said, and the connection closed."""
        try:
            session = find_for_viewer(self._server, session_id, token)
            session.join(self._seat)
            self._session = session
        except UltraflashError as error:
            self._refuse(error, close=TRY_AGAIN_LATER if error.retryable else POLICY_VIOLATION)

    def _dispatch(self, event: ClientEvent) -> None:
        if isinstance(event, SessionPing):
            self._outbox.put_event(SessionPong(server_ms=unix_ms(), t=event.t))
        elif isinstance(event, KeyframeRequest):
            self._request_key()
        elif isinstance(event, SessionStop):
            self._outbox.drop_media()
            self._outbox.close(DONE, "stopped")
        elif not isinstance(event, PlaybackAck):
            raise NotTheOwner(f"{event.type} is for the owner of a session; a viewer watches.")

    def _left(self) -> None:
        if self._session is not None:
            self._session.audience.viewer_left(self._seat)

    def _request_key(self) -> None:
        if self._session is not None:
            self._session.request_key()
