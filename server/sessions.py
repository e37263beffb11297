"""Live sessions in the web process: what the owner asked for, and what came of it.

A session holds no pictures. It remembers the prompt and size in force and the number of the next frame, which is
what a new worker needs to go on after the old one has died.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ultraflash.server.access import Grant
from ultraflash.server.admission import Claim, claim_of
from ultraflash.server.audience import Audience
from ultraflash.server.error_events import error_event, refusal_event
from ultraflash.server.errors import (
    EngineFault,
    EngineRestarting,
    NotReady,
    UnexpectedEvent,
    UnknownSession,
)
from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.metrics import Metrics
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.pending_changes import PendingChanges
from ultraflash.server.protocol import (
    PlaybackAck,
    PromptApplied,
    PromptUpdate,
    SessionControl,
    SessionDone,
    SessionResumed,
    SessionStart,
    SessionStarted,
    Transport,
)
from ultraflash.server.recording import Recording
from ultraflash.server.seat import Seat
from ultraflash.server.session_identity import (
    SessionIdentity,
    first_position,
    started_event,
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
from ultraflash.server.stream_stats import StatsMeter, quality_event, stats_event
from ultraflash.server.tracing import NO_TRACER, Tracer
from ultraflash.server.worker.messages import (
    CommandRefused,
    GenerationStarted,
    MediaPacket,
    PromptShown,
    SizeShown,
    StreamEnded,
    StreamOpened,
    StreamReport,
    StreamStats,
)
from ultraflash.server.worker.supervisor import WorkerSupervisor

MAX_RESTARTS_WITHOUT_A_FRAME = 3
DONE = 1000
ENGINE_FAULT = 1011

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
        self.state: SessionState = "opening" if before is None else "lost"
        self.feed = MediaFeed(self.session_id, supervisor)
        self.audience = Audience(self.feed)
        self._start = start
        self._at = first_position(start) if before is None else stored_position(before)
        recording: Recording | None = None
        if start.record:
            begin = Recording.begin if before is None else Recording.gone_on_with
            recording = begin(recordings, self.session_id, token_s=limits.token_s)
        self._record = SessionRecord(self._at, recording, self.keep, before, image=start.image)
        self._trail = SessionTrail(tracer, self.session_id, size=start.size, prompt_chars=len(start.prompt))
        self._steering = Steering(
            self.session_id,
            self._at,
            pending=PendingChanges() if before is None else stored_changes(before),
            audience=self.audience,
            feed=self.feed,
            supervisor=supervisor,
            trail=self._trail,
        )
        self._keep = keep
        self._forsaken = before is not None
        self._reason: str | None = None
        self._supervisor = supervisor
        self._limits = limits
        self._metrics = metrics
        self._restarts = 0
        self._meter = StatsMeter(metrics)
        self._opened = None if before is None else stored_opening(before)
        self._ending: tuple[SessionDone, int] | None = None

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
        if self._opened is not None:
            self._keep(
                stored_session(
                    self._identity,
                    self._start,
                    self._opened,
                    self._at,
                    self._record.log,
                    self._steering.pending,
                    state="interrupted" if self._forsaken else "ended" if self.over else "live",
                    reason=self._reason,
                )
            )

    @property
    def over(self) -> bool:
        """Whether it will not go on."""
        return self.state in ("refused", "done")

    @property
    def ending(self) -> bool:
        """Whether it is over but nobody has been told yet, since its recording is being completed."""
        return self.state == "done" and self._ending is None

    @property
    def transport(self) -> Transport:
        """What the owner asked for."""
        return self._start.transport

    @property
    def claim(self) -> Claim:
        """What it asks of the machine. Raises ``UnknownSize`` for a size that a new worker does not make."""
        at, ready = self._at, self._supervisor.ready
        if ready is None:
            raise NotReady("The engine has not said yet what it can make.")
        frames_left = None if at.max_frames is None else max(0, at.max_frames - at.next_index)
        return claim_of(at.asked_size, at.fps, frames_left, ready=ready, limits=self._limits)

    @property
    def asked_fps(self) -> int | None:
        """Frames per second, of a session that is being opened as far as its owner has asked for them."""
        return self._at.fps

    @property
    def fps(self) -> int:
        """Frames per second of a session that has been opened. Raises ``UnknownSession`` before."""
        if self._opened is None:
            raise UnknownSession("This session has not begun yet.")
        return self._opened.fps

    @property
    def replay(self) -> dict[str, Any]:
        """Its log so far, which only its owner may know."""
        return self._record.replay

    def summary(self) -> dict[str, Any]:
        """What anybody may know."""
        opened = self._opened
        return {
            "id": self.session_id,
            "object": "session",
            "model": self._model(),
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
        self._supervisor.attach(self.session_id, self)
        self._open_stream()

    def join(self, viewer: Seat) -> None:
        """Seats a viewer. Raises ``UnknownSession`` where there is nothing to see any more, or yet."""
        if self.over or self._opened is None:
            raise UnknownSession("This session has ended.")
        viewer.tell(self._started_event(self._opened, viewer))
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
        if self._ending is not None:
            self.audience.dismiss_owner(*self._ending)
        self._steering.set_share(owner.control.share)
        self._steering.rest()

    def _wake(self, last_us: float | None) -> None:
        """Goes on with what a killed server has left, as if the worker alone had died."""
        self._forsaken = False
        # How far it came is known best by whom it sent the frames to.
        self._at.went_on_to(last_us)
        if self._record.recording is not None:
            self.feed.join(self._record.recording)
        self._supervisor.attach(self.session_id, self)
        self.on_worker_ready()
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
        self._adapt()

    def _adapt(self) -> None:
        """Follows what the owner's connection carries."""
        if not self.over:
            self._steering.adapt(last_resort=self._adapt)

    def request_key(self) -> None:
        """Asks for a keyframe."""
        self.feed.request_key()

    def stop(self) -> None:
        """Ends the session because its owner wants it."""
        if self.audience.owner is not None:
            self.audience.owner.outbox.drop_media()
        self._finish("stopped", DONE)

    def abandon(self, reason: str = "disconnected") -> None:
        """Ends the session because its owner has gone, or may not go on."""
        if not self.over:
            self._finish(reason, DONE)

    def on_report(self, report: StreamReport) -> None:
        """Tells the owner what happened to its stream."""
        if isinstance(report, MediaPacket):
            self._on_media(report)
        elif isinstance(report, StreamOpened):
            self._on_opened(report)
        elif isinstance(report, CommandRefused):
            self._on_refused(report)
        elif isinstance(report, StreamEnded):
            self._on_ended(report)
        elif isinstance(report, StreamStats):
            self._on_stats(report)
        else:
            self._on_change(report)

    def on_fault(self) -> None:
        """Ends the session, which has failed at a report of its stream."""
        if not self.over:
            self._fail("The server failed at this stream; its log says why.")

    def on_worker_lost(self) -> None:
        """Tells the owner, unless it happens again and again; the next worker carries on."""
        if self.state == "opening":
            return
        self.state = "lost"
        self._restarts += 1
        if self._restarts > MAX_RESTARTS_WITHOUT_A_FRAME:
            self._fail("The worker died again and again on this stream.")
        else:
            self.audience.tell_all(
                error_event(
                    EngineRestarting("The worker died and is being replaced; the stream goes on soon.")
                )
            )

    def on_worker_ready(self) -> None:
        """Goes on with the new worker, which is told once more what the old one was told before it opened."""
        self._open_stream()
        if self.state == "opening":
            self._steering.repeat()

    def _open_stream(self) -> None:
        """Asks for the stream; the last attempt takes no snapshot, should that be what the workers die of."""
        self._steering.open(
            restore=self.state == "lost" and self._restarts < MAX_RESTARTS_WITHOUT_A_FRAME,
            changes=self._record.log.changes_since(self._at.oldest_kept_us),
        )

    def _on_opened(self, report: StreamOpened) -> None:
        resumed = self.state == "lost"
        self.state = "live"
        self._opened = report
        self._at.size, self._at.fps = report.size, report.fps
        if not resumed:
            self._record.log.began(
                model=self._model(), fps=report.fps, prompt=self._at.prompt, size=self._at.size
            )
            if self.audience.owner is not None:
                self.audience.tell_owner(self._started_event(report, self.audience.owner))
            return
        self._meter.go_on()
        self._at.next_index = report.first_index
        first_us = self._at.next_us
        if not report.restored:
            self._meter.begin()
            self._at.sr_share = 1.0
            self._record.log.restarted(first_us, prompt=self._at.prompt, size=self._at.size)
        state: Literal["restored", "restarted"] = "restored" if report.restored else "restarted"
        self._metrics.resumed.labels(state=state).inc()
        self.audience.tell_all(SessionResumed(session_id=self.session_id, first_pts_us=first_us, state=state))
        self._steering.repeat()

    def _started_event(self, report: StreamOpened, seat: Seat) -> SessionStarted:
        return started_event(
            self._identity,
            report,
            self._at,
            model=self._model(),
            container=seat.container,
            owns=seat is self.audience.owner,
        )

    def _on_refused(self, report: CommandRefused) -> None:
        self._metrics.refused.labels(code=report.code).inc()
        self.audience.tell_owner(refusal_event(report))
        if report.event_id is not None:
            self._steering.pending.forget(report.event_id)
            self._trail.prompt_refused(report.event_id)
            return
        for event in self._steering.pending:
            self.audience.tell_owner(
                error_event(UnexpectedEvent("The session did not start."), event.event_id)
            )
        self.state = "refused"
        self._trail.over("refused", 0)
        self._record.discard()
        self._supervisor.detach(self.session_id)

    def _on_change(self, report: GenerationStarted | PromptShown | SizeShown) -> None:
        if isinstance(report, GenerationStarted):
            self._at.generation = report.generation
            self.feed.announce(report)
            self.keep()
        elif isinstance(report, PromptShown):
            self._trail.prompt_shown(report.event_id, report.first_pts_us)
            change = self._steering.pending.prompt_shown(report.event_id, report.first_pts_us)
            if change is not None:
                self._at.prompt = change.prompt
                self._record.log.prompt_shown(report, change)
            self.audience.tell_owner(
                PromptApplied(event_id=report.event_id, first_pts_us=report.first_pts_us)
            )
        else:
            self._at.size, self._at.asked_size = report.size, report.asked_size
            self._at.sr_share = report.sr_share
            self._record.log.size_shown(report)
            if report.reason == "requested":
                self._steering.pending.size_shown(report.event_id)
            self.audience.tell_all(quality_event(report))

    def _on_media(self, packet: MediaPacket) -> None:
        self._trail.packet_sent(packet.seq, packet.pts_us)
        self._meter.count(packet, self._steering.pending.seconds_until(packet.pts_us))
        self._at.next_index = packet.seq + 1
        self._restarts = 0
        self.feed.put(packet)
        self._adapt()

    def _on_stats(self, report: StreamStats) -> None:
        self._meter.take(report)
        if self.audience.owner is not None:
            self.audience.owner.tell(stats_event(report))

    def _on_ended(self, report: StreamEnded) -> None:
        if report.reason == "engine_fault":
            self._fail("The engine could not make the next frames of this stream; the server's log says why.")
        else:
            self._finish(report.reason, DONE)

    def _fail(self, message: str) -> None:
        self.audience.tell_all(error_event(EngineFault(message)))
        self._finish("engine_fault", ENGINE_FAULT)

    def _finish(self, reason: str, code: int) -> None:
        self._leave(reason)
        self._record.complete(reason, partial(self._end, reason, code))

    def _end(self, reason: str, code: int, recording: list[str] | None) -> None:
        """Tells everybody that it is over."""
        done = SessionDone(reason=reason, frames=self._at.next_index, replay=self.replay, recording=recording)
        self._ending = (done, code)
        self.audience.dismiss_viewers(done, code)
        self.audience.dismiss_owner(done, code)

    def _leave(self, reason: str) -> None:
        self.state, self._reason = "done", reason
        self.keep()
        self._steering.close()
        self._supervisor.detach(self.session_id)
        self._metrics.sessions_ended.labels(reason=reason).inc()
        self._trail.over(reason, self._at.next_index)

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

    def _model(self) -> str:
        return "" if self._supervisor.ready is None else self._supervisor.ready.model
