"""Live sessions in the web process: what the owner asked for, and what came of it.

A session holds no pictures. It remembers the prompt and size in force and the number of the next frame, which is
what a new worker needs to go on after the old one has died.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ultraflash.models.errors import UnknownSize
from ultraflash.server.access import Grant
from ultraflash.server.admission import Claim, claim_of
from ultraflash.server.audience import Audience
from ultraflash.server.errors import NotReady, UnknownSession
from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.metrics import Metrics
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.pending_changes import PendingChanges
from ultraflash.server.protocol import (
    PlaybackAck,
    PromptUpdate,
    SessionControl,
    SessionResumed,
    SessionStart,
    Transport,
)
from ultraflash.server.recording import Recording
from ultraflash.server.seat import Seat
from ultraflash.server.session_ending import SessionEnding
from ultraflash.server.session_identity import (
    SessionIdentity,
    first_position,
    stored_changes,
    stored_opening,
    stored_position,
    stored_session,
)
from ultraflash.server.session_record import SessionRecord
from ultraflash.server.session_store import StoredSession
from ultraflash.server.session_trail import SessionTrail
from ultraflash.server.settings import StreamSettings
from ultraflash.server.steering import Steering
from ultraflash.server.stream_reports import StreamReports
from ultraflash.server.tracing import NO_TRACER, Tracer
from ultraflash.server.worker.messages import AUTO
from ultraflash.server.worker.supervisor import WorkerSupervisor

SessionState = Literal["opening", "live", "lost", "refused", "done"]


class LiveSession:
    """One session from ``session.start`` to ``session.done``."""

    def __init__(
        self,
        start: SessionStart,
        *,
        supervisor: WorkerSupervisor,
        metrics: Metrics,
        limits: StreamSettings,
        recordings: Path,
        keep: Callable[[StoredSession], None],
        tracer: Tracer = NO_TRACER,
        key_id: str | None = None,
        before: StoredSession | None = None,
    ) -> None:
        """A session of ``start``, or the one ``before`` that a server which is gone has left of it.

        ``keep`` is told of it as it changes.
        """
        self._identity = (
            SessionIdentity.new(limits.token_s, key_id) if before is None else SessionIdentity.of(before)
        )
        self.session_id = self._identity.session_id
        self.feed = MediaFeed(self.session_id, supervisor)
        self.audience = Audience(self.feed)
        self._start = start
        self._at = first_position(start) if before is None else stored_position(before)
        recording: Recording | None = None
        if start.record:
            begin = Recording.begin if before is None else Recording.gone_on_with
            recording = begin(recordings, self.session_id, token_s=limits.token_s)
        self._record = SessionRecord(self._at, recording, self.keep, before, image=start.image)
        trail = SessionTrail(tracer, self.session_id, size=start.size, prompt_chars=len(start.prompt))
        self._steering = Steering(
            self.session_id,
            self._at,
            pending=PendingChanges() if before is None else stored_changes(before),
            audience=self.audience,
            feed=self.feed,
            supervisor=supervisor,
            trail=trail,
        )
        self._ending = SessionEnding(
            self.session_id,
            self._at,
            audience=self.audience,
            record=self._record,
            steering=self._steering,
            trail=trail,
            supervisor=supervisor,
            metrics=metrics,
            keep=self.keep,
        )
        self._stream = StreamReports(
            self._identity,
            self._at,
            audience=self.audience,
            feed=self.feed,
            record=self._record,
            steering=self._steering,
            trail=trail,
            supervisor=supervisor,
            metrics=metrics,
            ending=self._ending,
            keep=self.keep,
            opened=None if before is None else stored_opening(before),
        )
        self._keep = keep
        self._forsaken = before is not None
        self._supervisor = supervisor
        self._limits = limits

    @property
    def key_id(self) -> str | None:
        """The API key that it was started with; None where none was needed."""
        return self._identity.key_id

    @property
    def viewer_grant(self) -> Grant:
        """Recognizes the token of viewers."""
        return self._identity.viewer_grant

    @property
    def owner_grant(self) -> Grant:
        """Recognizes the token of the owner."""
        return self._identity.owner_grant

    def keep(self) -> None:
        """Has it stored as it is now, once there is something to store."""
        if self._stream.opened is not None:
            self._keep(
                stored_session(
                    self._identity,
                    self._start,
                    self._stream.opened,
                    self._at,
                    self._record.log,
                    self._steering.pending,
                    state="interrupted" if self._forsaken else "ended" if self.over else "live",
                    reason=self._ending.reason,
                )
            )

    @property
    def state(self) -> SessionState:
        """How far it has come."""
        return "done" if self._ending.begun else self._stream.state

    @property
    def over(self) -> bool:
        """Whether it will not go on."""
        return self.state in ("refused", "done")

    @property
    def ending(self) -> bool:
        """Whether it is over but nobody has been told yet, since its recording is being completed."""
        return self._ending.begun and not self._ending.told

    @property
    def transport(self) -> Transport:
        """What the owner asked for."""
        return self._start.transport

    @property
    def claim(self) -> Claim:
        """What it asks of the machine: the least, of a size that a new worker does not make."""
        at, ready = self._at, self._supervisor.ready
        if ready is None:
            raise NotReady("The engine has not said yet what it can make.")
        frames_left = None if at.max_frames is None else max(0, at.max_frames - at.next_index)
        try:
            return claim_of(at.asked_size, at.fps, frames_left, ready=ready, limits=self._limits)
        except UnknownSize:
            # It is refused when its owner is back; until then that must keep nobody else out.
            return claim_of(AUTO, at.fps, frames_left, ready=ready, limits=self._limits)

    @property
    def asked_fps(self) -> int | None:
        """Frames per second, of a session that is being opened as far as its owner has asked for them."""
        return self._at.fps

    @property
    def fps(self) -> int:
        """Frames per second of a session that has been opened. Raises ``UnknownSession`` before."""
        if self._stream.opened is None:
            raise UnknownSession("This session has not begun yet.")
        return self._stream.opened.fps

    @property
    def replay(self) -> dict[str, Any]:
        """Its log so far, which only its owner may know."""
        return self._record.replay

    def summary(self) -> dict[str, Any]:
        """What anybody may know."""
        opened = self._stream.opened
        return {
            "id": self.session_id,
            "object": "session",
            "model": self._stream.model,
            "state": "away" if self.audience.owner is None else self.state,
            "size": self._at.size,
            "width": None if opened is None else opened.width,
            "height": None if opened is None else opened.height,
            "fps": self._at.fps,
            "seconds": round(self._at.next_us / 1e6, 3),
            "viewers": len(self.audience.viewers),
        }

    def start_from(self, reference: Path) -> None:
        """A stream of this session that is a new one starts from the frames in that file."""
        self._at.reference = str(reference)

    def open(self, owner: OwnerSeat) -> None:
        """Asks the worker for the stream."""
        self.audience.welcome_owner(owner)
        self.feed.join(owner)
        if self._record.recording is not None:
            self.feed.join(self._record.recording)
        self._stream.begin()

    def join(self, viewer: Seat) -> None:
        """Seats a viewer. Raises ``UnknownSession`` where there is nothing to see any more, or yet."""
        if self.over or self._stream.opened is None:
            raise UnknownSession("This session has ended.")
        viewer.tell(self._stream.started_event(self._stream.opened, viewer))
        self.audience.welcome_viewer(viewer)

    def owner_left(self) -> None:
        """Rests until the owner is back."""
        self.audience.owner_left()
        self._steering.rest()

    def resume(self, owner: OwnerSeat, last_us: float | None) -> None:
        """Goes on for an owner that is back and has everything up to ``last_us``, or nothing if None."""
        self.audience.welcome_owner(owner)
        if self._forsaken:
            self._wake(last_us)
        held = [] if last_us is None else self.feed.held_from(last_us)
        packets = held[1:] if held else self.feed.since_newest_key()
        first_us = packets[0].packet.pts_us if packets else self._at.next_us
        owner.tell(
            SessionResumed(
                session_id=self.session_id,
                first_pts_us=first_us,
                state="continued" if held else "rejoined",
            )
        )
        # Acknowledgements may have been lost with the connection; what they said is known all the same, and a
        # stream that waits for them would never go on.
        self._steering.move_playhead(first_us - 1e6 / self.fps)
        if held:
            owner.adopt(held[0].generation)
            self.feed.follow(owner, packets)
        else:
            self.feed.join(owner)
        self._ending.tell_late_owner()
        self._steering.set_share(owner.control.share)
        self._steering.rest()

    def _wake(self, last_us: float | None) -> None:
        """Goes on with what a killed server has left, as if the worker alone had died."""
        self._forsaken = False
        # How far it came is known best by whom it sent the frames to.
        self._at.went_on_to(last_us)
        if self._record.recording is not None:
            self.feed.join(self._record.recording)
        self._stream.begin()
        self.keep()

    def update_prompt(self, event: PromptUpdate) -> None:
        """Passes a new prompt on; while there is no stream it waits for the next one."""
        if self.state == "lost":
            self._steering.note_prompt(event)
        else:
            self._steering.update_prompt(event)
        self.keep()

    def control(self, event: SessionControl) -> None:
        """Passes on what the owner wants changed."""
        self._steering.control(event)
        self.keep()

    def ack(self, event: PlaybackAck) -> None:
        """Moves the playhead. Raises ``AckOutOfRange`` for a frame that has not been sent."""
        self._steering.ack(event)
        self._steering.adapt()

    def request_key(self) -> None:
        """Asks for a keyframe."""
        self.feed.request_key()

    def stop(self) -> None:
        """Ends the session because its owner wants it."""
        if self.audience.owner is not None:
            self.audience.owner.outbox.drop_media()
        self._ending.finish("stopped")

    def abandon(self, reason: str = "disconnected") -> None:
        """Ends the session because its owner has gone, or may not go on."""
        if not self.over:
            self._ending.finish(reason)

    @property
    def is_recording(self) -> bool:
        """Whether files are still being written."""
        return self._record.in_progress

    def end_recording(self) -> None:
        """Records no more; the session goes on."""
        self._record.end_early()

    def wait_for_recording(self) -> None:
        """Blocks until the recording of a session that is over is on the disk."""
        self._record.wait()
