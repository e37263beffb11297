"""An asynchronous client of the stream, for programs that generate or watch.

::

    async with connect("http://127.0.0.1:8000", prompt="a lake at dawn", size="1K") as stream:
        async for packet in stream:
            ...  # packet.data is one H.264 access unit in Annex-B

Frames are acknowledged as they are taken, so that the server goes as fast as they are used. A lost connection is made
again; the session goes on where it was. With ``session`` and ``token`` instead of a prompt it watches somebody else's.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import websockets
from websockets.asyncio.client import ClientConnection

from ultraflash.server.errors import BadOption, ConnectionLost, Refused
from ultraflash.server.protocol import (
    HEADER_BYTES,
    ClientEvent,
    ErrorEvent,
    KeyframeRequest,
    MediaFlags,
    MediaHeader,
    PlaybackAck,
    PromptUpdate,
    ServerEvent,
    SessionControl,
    SessionDone,
    SessionResume,
    SessionResumed,
    SessionStart,
    SessionStarted,
    SessionStop,
    StreamConfig,
    Transition,
    dump_event,
    server_adapter,
)

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
PATIENCE_S = 60.0
DONE = 1000
REFUSALS = (1008, 1011)
# Errors that end an attempt to come back: for good, or until the next one.
HOPELESS = ("unknown_session", "bad_token", "unauthorized")
LATER = ("owner_present", "not_ready", "busy")


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePacket:
    """One encoded frame.

    Attributes:
        header: its number, time and flags.
        config: what it is a frame of.
        data: an H.264 access unit, Annex-B.
    """

    header: MediaHeader
    config: StreamConfig
    data: bytes

    @property
    def key(self) -> bool:
        """Whether decoding can start here."""
        return MediaFlags.KEY in self.header.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stream is, and as whom one goes there.

    Attributes:
        url: of the WebSocket.
        start: what an owner asks for; None for a viewer.
        patience_s: for how long a lost connection is tried again.
        key: API key of an owner; a viewer has its token.
    """

    url: str
    start: SessionStart | None
    patience_s: float = PATIENCE_S
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What the connection is asked for with."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def connect(
    url: str,
    *,
    prompt: str | None = None,
    session: str | None = None,
    token: str | None = None,
    key: str | None = None,
    image: bytes | Path | None = None,
    on_event: Callable[[ServerEvent], None] | None = None,
    patience_s: float = PATIENCE_S,
    **start: Any,
) -> AsyncIterator[Stream]:
    """Opens a stream; leaving the block ends it.

    Args:
        url: of the server, ``http://`` or ``ws://``.
        prompt: starts a session of one's own; ``start`` holds further fields of ``session.start``.
        session, token: watches the session of that id, with its ``viewer_token``.
        key: API key, where the server wants one of those who start sessions.
        image: a PNG, JPEG or WebP picture, or its file, from which the session goes on.
        on_event: hears every event of the server.
        patience_s: for how long a lost connection is tried again.

    Raises:
        BadOption: neither a prompt nor a session and a token, or both.
        OSError: the file of the picture cannot be read.
        Refused: the server does not want to; ``code`` says why.
        ConnectionLost: there is no server, or it stayed away.
    """
    if image is not None:
        data = image if isinstance(image, bytes) else await asyncio.to_thread(image.read_bytes)
        start["image"] = base64.b64encode(data).decode()
    place = replace(_place(url, prompt, session, token, patience_s, start), key=key)
    stream = Stream(place, on_event or (lambda event: None))
    await stream.open()
    try:
        yield stream
    finally:
        await stream.close()


class Stream:
    """Frames of one session, in order, and what its owner can change. Made by ``connect``.

    Attributes:
        started: how the server announced the session.
        done: its end, once it has come.
        resumptions: how often a lost connection was made again.
    """

    started: SessionStarted

    def __init__(self, place: Place, on_event: Callable[[ServerEvent], None]) -> None:
        self.done: SessionDone | None = None
        self.resumptions = 0
        self._place = place
        self._on_event = on_event
        self._socket: ClientConnection | None = None
        self._configs: dict[int, StreamConfig] = {}
        self._adapter = server_adapter()
        self._newest: MediaHeader | None = None
        self._unsent: list[ClientEvent] = []
        self._changes = 0
        self._error: ErrorEvent | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> FramePacket:
        """The next frame; the one before counts as seen. Raises ``Refused`` or ``ConnectionLost``."""
        await self._acknowledge()
        while True:
            try:
                message = await self._receive()
            except websockets.ConnectionClosed as error:
                await self._after_close(error)
                continue
            if isinstance(message, FramePacket) and not self._had(message):
                self._newest = message.header
                return message

    async def set_prompt(
        self, prompt: str, *, transition: Transition = "cut", groups: int | None = None
    ) -> str:
        """Changes the prompt at once, or by a fade or a blend over ``groups`` groups, the server's default for None.

        Returns the ``event_id`` that ``prompt.applied`` will carry.
        """
        event_id = self._event_id()
        await self._send(PromptUpdate(prompt=prompt, event_id=event_id, transition=transition, groups=groups))
        return event_id

    async def control(
        self, *, size: str | None = None, paused: bool | None = None, bitrate: int | None = None
    ) -> str:
        """Changes what is given. Returns the ``event_id`` that an error would carry."""
        event_id = self._event_id()
        await self._send(SessionControl(event_id=event_id, size=size, paused=paused, bitrate=bitrate))
        return event_id

    async def request_key(self) -> None:
        """Asks for a keyframe."""
        await self._send(KeyframeRequest())

    async def stop(self) -> None:
        """Ends the session; iteration ends with what is still on its way."""
        await self._send(SessionStop())

    async def open(self) -> None:
        """Connects and waits until the session has begun."""
        await self._dial()
        if self._place.start is not None:
            await self._send(self._place.start)
        try:
            while not hasattr(self, "started"):
                event = await self._receive()
                if isinstance(event, ErrorEvent):
                    await self.close()
                    raise Refused(event.message, code=event.code, retryable=event.retryable)
        except websockets.ConnectionClosed as error:
            raise ConnectionLost(f"The server hung up before the session began: {error}.") from error

    async def close(self) -> None:
        """Says good-bye."""
        if self._socket is not None:
            await self._socket.close()

    async def _dial(self) -> None:
        try:
            self._socket = await websockets.connect(
                self._place.url, max_size=None, additional_headers=self._place.headers
            )
        except (OSError, websockets.InvalidHandshake) as error:
            where = self._place.url.split("?")[0]
            raise ConnectionLost(f"There is no stream at {where}: {error}.") from error

    async def _receive(self) -> FramePacket | ServerEvent:
        """The next thing from the server. Raises ``websockets.ConnectionClosed``."""
        message = await self._connection().recv()
        if isinstance(message, bytes):
            header = MediaHeader.unpack(message)
            config = self._configs[header.generation]
            return FramePacket(header=header, config=config, data=message[HEADER_BYTES:])
        event = self._adapter.validate_json(message)
        if isinstance(event, StreamConfig):
            self._configs[event.generation] = event
        elif isinstance(event, SessionStarted):
            self.started = event
        elif isinstance(event, SessionDone):
            self.done = event
        elif isinstance(event, ErrorEvent):
            self._error = event
        self._on_event(event)
        return event

    async def _after_close(self, error: websockets.ConnectionClosed) -> None:
        """Ends the iteration, raises what went wrong, or returns with the connection made again."""
        code = None if error.rcvd is None else error.rcvd.code
        if code == DONE and (self.done is not None or self._place.start is None):
            raise StopAsyncIteration from error
        if code in REFUSALS and self._error is not None:
            last = self._error
            raise Refused(last.message, code=last.code, retryable=last.retryable) from error
        give_up_at = time.monotonic() + self._place.patience_s
        for delay_s in itertools.chain(BACKOFF_S, itertools.repeat(BACKOFF_S[-1])):
            await asyncio.sleep(delay_s)
            if await self._came_back():
                self.resumptions += 1
                return
            if time.monotonic() > give_up_at:
                raise ConnectionLost("The connection was lost and could not be made again.") from error

    async def _came_back(self) -> bool:
        """One attempt to make the connection again. Raises ``Refused`` where there is no use in another one."""
        try:
            await self._dial()
            if self._place.start is not None:
                await self._send(self._resume())
            while not self._welcomed_by(event := await self._receive()):
                if isinstance(event, ErrorEvent) and event.code in HOPELESS:
                    raise Refused(event.message, code=event.code, retryable=event.retryable)
                if isinstance(event, ErrorEvent) and event.code in LATER:
                    return False
        except (ConnectionLost, websockets.ConnectionClosed):
            return False
        unsent, self._unsent = self._unsent, []
        for change in unsent:
            await self._send(change)
        return True

    def _resume(self) -> SessionResume:
        return SessionResume(
            session_id=self.started.session_id,
            resume_token=self.started.resume_token or "",
            last_pts_us=None if self._newest is None else self._newest.pts_us,
        )

    def _welcomed_by(self, event: FramePacket | ServerEvent) -> bool:
        """Whether the server lets a viewer, or the owner, have its place again."""
        if self._place.start is None:
            return isinstance(event, SessionStarted)
        return isinstance(event, SessionResumed) and event.state in ("continued", "rejoined")

    def _had(self, packet: FramePacket) -> bool:
        """Whether a viewer who has come back gets a frame again, from the keyframe on that it joined at."""
        return self._newest is not None and packet.header.seq <= self._newest.seq

    async def _acknowledge(self) -> None:
        if self._newest is not None and self._place.start is not None:
            newest = self._newest
            await self._send(PlaybackAck(seq=newest.seq, pts_us=newest.pts_us))

    async def _send(self, event: ClientEvent) -> None:
        """Sends an event; what the owner changes while the connection is lost waits until it is back."""
        try:
            await self._connection().send(dump_event(event))
        except websockets.ConnectionClosed:
            if isinstance(event, PromptUpdate | SessionControl | SessionStop):
                self._unsent.append(event)

    def _connection(self) -> ClientConnection:
        if self._socket is None:
            raise ConnectionLost("The stream has not been opened.")
        return self._socket

    def _event_id(self) -> str:
        self._changes += 1
        return f"change-{self._changes}"


def _place(
    url: str, prompt: str | None, session: str | None, token: str | None, patience_s: float, start: Any
) -> Place:
    """Raises ``BadOption`` where it is not clear what is wanted."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise BadOption(
            f"{url!r} is not the address of a server, such as http://127.0.0.1:8000.", param="url"
        )
    scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
    base = f"{scheme}://{parts.netloc}/v1/stream"
    if (prompt is None) == (session is None) or (session is None) != (token is None):
        raise BadOption(
            "Give a prompt, to start a session, or a session and its token, to watch one.", param="prompt"
        )
    if prompt is not None:
        return Place(url=base, start=SessionStart(prompt=prompt, **start), patience_s=patience_s)
    if start:
        raise BadOption(f"A viewer cannot choose {', '.join(start)}.", param=next(iter(start)))
    address = f"{base}/{quote(session or '', safe='')}?token={quote(token or '', safe='')}"
    return Place(url=address, start=None, patience_s=patience_s)
