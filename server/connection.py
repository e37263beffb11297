"""The WebSocket of an owner: it starts one session, or comes back to one, and steers it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket

from ultraflash.models.errors import UltraflashError
from ultraflash.server.admission import Claim, claim_of
from ultraflash.server.errors import (
    Busy,
    EngineFault,
    OwnerPresent,
    UnexpectedEvent,
    UnknownSession,
)
from ultraflash.server.keys.allowance import check_prompt_length
from ultraflash.server.keys.records import Caller
from ultraflash.server.media.signatures import PICTURES
from ultraflash.server.outbox import Outbox
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.peer import Peer
from ultraflash.server.protocol import (
    ClientEvent,
    KeyframeRequest,
    PlaybackAck,
    PromptUpdate,
    SessionAuthenticate,
    SessionControl,
    SessionDone,
    SessionPing,
    SessionPong,
    SessionResume,
    SessionStart,
    SessionStop,
)
from ultraflash.server.session_ending import DONE
from ultraflash.server.session_start import check_start, picture_of, pixel_rate
from ultraflash.server.sessions import LiveSession
from ultraflash.server.stream_server import StreamServer
from ultraflash.server.waiting_line import Applicant
from ultraflash.server.wall_clock import unix_ms
from ultraflash.server.worker.messages import AUTO, WorkerReady

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A ``session.start`` that can be had.

    Attributes:
        start: with a size whose pixels are known where they are counted.
        rate: pixels a second.
        frames: file of the frames to start from, of one with an image.
    """

    start: SessionStart
    claim: Claim
    rate: int
    frames: Path | None = None


class Connection(Peer):
    """The client that owns a session."""

    def __init__(self, websocket: WebSocket, server: StreamServer, caller: Caller) -> None:
        outbox = Outbox(self._request_key)
        super().__init__(
            websocket,
            outbox,
            limits=server.settings.stream,
            metrics=server.metrics,
            max_message_bytes=server.settings.http.max_message_bytes,
        )
        self._server = server
        self._caller = caller
        self._session: LiveSession | None = None
        self._applicant: Applicant | None = None
        self._picture: asyncio.Task[None] | None = None
        self._reads = False

    def _waits_for_start(self) -> bool:
        waits = self._applicant is not None or self._reads
        return not waits and (self._session is None or self._session.state == "refused")

    def _may_be_long(self, text: str) -> bool:
        return self._waits_for_start() and '"image"' in text

    def _left(self) -> None:
        self._drop_picture()
        self._leave_line()
        if self._session is not None:
            self._server.sessions.owner_left(self._session, for_good=self._said_good_bye)

    def _dispatch(self, event: ClientEvent) -> None:
        if isinstance(event, SessionPing):
            self._outbox.put_event(SessionPong(server_ms=unix_ms(), t=event.t))
        elif isinstance(event, SessionAuthenticate):
            # Before the first event it is read elsewhere; a client need not know whether a key is wanted.
            return
        elif isinstance(event, SessionStart):
            self._start(event)
        elif isinstance(event, SessionResume):
            self._resume(event)
        elif self._waits_for_place and isinstance(event, SessionStop):
            self._drop_picture()
            self._leave_line()
            self._outbox.put_event(SessionDone(reason="stopped", frames=0))
            self._outbox.close(DONE, "stopped")
        elif self._session is not None and self._session.ending:
            # Too late to matter, and the client cannot know yet.
            return
        else:
            self._steer(self._running(event.type), event)

    @property
    def _waits_for_place(self) -> bool:
        """Whether a session was asked for that has not begun."""
        return self._applicant is not None or self._reads

    def _start(self, event: SessionStart) -> None:
        self._check_free()
        ready, limits = self._server.capabilities(), self._server.settings.stream
        check_start(event, ready)
        check_prompt_length(event.prompt, self._caller)
        event = event.model_copy(update={"size": self._countable(event.size, ready)})
        rate = pixel_rate(ready, event.size, event.fps)
        self._server.allowances.check_start(self._caller, rate)
        claim = claim_of(event.size, event.fps, event.max_frames, ready=ready, limits=limits)
        wish = Wish(start=event.model_copy(update={"image": None}), claim=claim, rate=rate)
        if event.image is None:
            self._enter_line(wish)
        else:
            self._reads = True
            self._picture = asyncio.create_task(self._start_from_picture(wish, event.image, ready.model))

    async def _start_from_picture(self, wish: Wish, image: str, model: str) -> None:
        """Reads the picture, then goes for a place; until the client has left, nobody removes what was read."""
        references = self._server.references
        try:
            upload = await run_in_threadpool(picture_of, image, self._max_image_bytes())
            async with references.read(upload, model, PICTURES) as reference:
                # Megabytes, and this lasts as long as the connection.
                del image, upload
                frames = await references.fetch(reference)
                try:
                    self._reads = False
                    start = wish.start.model_copy(update={"image": reference.id})
                    self._enter_line(replace(wish, start=start, frames=frames))
                    await asyncio.Event().wait()
                finally:
                    await run_in_threadpool(frames.unlink, missing_ok=True)
        except UltraflashError as error:
            self._answer(error)
        except Exception:
            log.exception("a picture to start from could not be read")
            self._answer(EngineFault("The picture could not be read; the server's log says why."))
        finally:
            if self._picture is asyncio.current_task():
                self._reads = False

    def _max_image_bytes(self) -> int:
        """Of a picture of this client. A key with small bodies has small pictures."""
        return min(
            self._server.settings.stream.max_image_bytes,
            self._caller.limits.max_body_bytes or self._server.settings.stream.max_image_bytes,
        )

    def _drop_picture(self) -> None:
        picture, self._picture, self._reads = self._picture, None, False
        if picture is not None:
            picture.cancel()

    def _enter_line(self, wish: Wish) -> None:
        begin = partial(self._admitted, wish)
        self._applicant = Applicant(claim=wish.claim, begin=begin, tell=self._outbox.put_event)
        try:
            self._server.sessions.line.enter(self._applicant)
        except Busy:
            self._applicant = None
            raise

    def _countable(self, size: str, ready: WorkerReady) -> str:
        """A size whose pixels are known, for a key that may have only so many: the default one for ``auto``."""
        counted = self._caller.limits.max_pixels_per_s is not None
        return ready.default_size if counted and size == AUTO else size

    def _admitted(self, wish: Wish) -> None:
        """There is a place, perhaps after a wait, so that what goes wrong now is told from here."""
        self._applicant = None
        try:
            # Others of the same key may have begun in the meantime.
            self._server.allowances.check_start(self._caller, wish.rate)
            self._begin(wish)
        except UltraflashError as error:
            self._answer(error)

    def _leave_line(self) -> None:
        applicant, self._applicant = self._applicant, None
        if applicant is not None:
            self._server.sessions.line.leave(applicant)

    def _begin(self, wish: Wish) -> None:
        session = self._server.begin(wish.start, key_id=self._caller.key_id, frames=wish.frames)
        self._session = session
        self._server.sessions.add(session)
        self._server.allowances.began(session.session_id, self._caller, wish.rate)
        session.open(OwnerSeat(self._outbox, wish.start.transport))

    def _resume(self, event: SessionResume) -> None:
        self._check_free()
        session = self._server.sessions.find(event.session_id)
        if session.key_id != self._caller.key_id:
            raise UnknownSession("This session has ended or never was; start a new one.", param="session_id")
        session.owner_grant.check(event.resume_token)
        if session.audience.owner is not None:
            raise OwnerPresent("The session's owner is connected already; only one can steer.")
        self._session = session
        self._server.allowances.came_back(session.session_id, self._caller)
        self._server.sessions.owner_is_back(session)
        session.resume(OwnerSeat(self._outbox, session.transport), event.last_pts_us)

    def _check_free(self) -> None:
        """Makes way for a session where none was started, or one that was refused."""
        if self._waits_for_place:
            raise UnexpectedEvent("This connection waits for its session already; see queue.status.")
        if self._session is not None and self._session.state != "refused":
            raise UnexpectedEvent("This connection has its session already; open another one for a second.")
        if self._session is not None:
            self._server.sessions.forget(self._session)
            self._session = None
        self._drop_picture()

    def _running(self, kind: str) -> LiveSession:
        if self._waits_for_place:
            raise UnexpectedEvent(f"{kind} needs a session, and this one waits in the queue for its place.")
        if self._session is None or self._session.over:
            raise UnexpectedEvent(f"{kind} needs a session; send session.start first.")
        return self._session

    def _steer(self, session: LiveSession, event: ClientEvent) -> None:
        if isinstance(event, PlaybackAck):
            session.ack(event)
        elif isinstance(event, PromptUpdate):
            check_prompt_length(event.prompt, self._caller)
            if self._server.supervisor.ready is not None:
                self._server.supervisor.ready.check_prompt(event.prompt)
            session.update_prompt(event)
        elif isinstance(event, SessionControl):
            ready = self._server.supervisor.ready
            if event.size is not None and ready is not None:
                event = event.model_copy(update={"size": self._countable(event.size, ready)})
                rate = pixel_rate(ready, event.size or AUTO, session.asked_fps)
                self._server.allowances.check_size(session.session_id, rate)
            session.control(event)
        elif isinstance(event, KeyframeRequest):
            session.request_key()
        else:
            session.stop()

    def _request_key(self) -> None:
        if self._session is not None:
            self._session.request_key()
