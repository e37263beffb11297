"""What the worker reports of the stream of a session, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ultraflash.server.audience import Audience
from ultraflash.server.error_events import error_event, refusal_event
from ultraflash.server.errors import EngineRestarting, UnexpectedEvent
from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.metrics import Metrics
from ultraflash.server.protocol import PromptApplied, SessionResumed, SessionStarted
from ultraflash.server.seat import Seat
from ultraflash.server.session_ending import ENGINE_FAULT, SessionEnding
from ultraflash.server.session_identity import SessionIdentity, started_event
from ultraflash.server.session_record import SessionRecord
from ultraflash.server.session_trail import SessionTrail
from ultraflash.server.steering import Steering
from ultraflash.server.stream_position import StreamPosition
from ultraflash.server.stream_stats import StatsMeter, quality_event, stats_event
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

StreamState = Literal["opening", "live", "lost", "refused"]


class StreamReports:
    """Follows one stream through the workers that make it; the supervisor's ``StreamOwner``.

    Attributes:
        state: of the stream, as long as its session has not ended.
        opened: how a worker has accepted it first; None before.
    """

    def __init__(
        self,
        identity: SessionIdentity,
        at: StreamPosition,
        *,
        audience: Audience,
        feed: MediaFeed,
        record: SessionRecord,
        steering: Steering,
        trail: SessionTrail,
        supervisor: WorkerSupervisor,
        metrics: Metrics,
        ending: SessionEnding,
        keep: Callable[[], None],
        opened: StreamOpened | None,
    ) -> None:
        """A stream that is to be opened, or the one ``opened`` by a worker that is gone.

        ``keep`` is called to have the session stored.
        """
        self.state: StreamState = "opening" if opened is None else "lost"
        self.opened = opened
        self._identity = identity
        self._at = at
        self._audience = audience
        self._feed = feed
        self._record = record
        self._steering = steering
        self._trail = trail
        self._supervisor = supervisor
        self._metrics = metrics
        self._ending = ending
        self._keep = keep
        self._restarts = 0
        self._meter = StatsMeter(metrics)

    @property
    def model(self) -> str:
        """What makes it; empty while no worker is ready."""
        return "" if self._supervisor.ready is None else self._supervisor.ready.model

    def begin(self) -> None:
        """Follows the worker from now on and asks it for the stream."""
        self._supervisor.attach(self._identity.session_id, self)
        self._open()

    def started_event(self, opened: StreamOpened, seat: Seat) -> SessionStarted:
        """How the session is announced to whoever sits there."""
        return started_event(
            self._identity,
            opened,
            self._at,
            model=self.model,
            container=seat.container,
            owns=seat is self._audience.owner,
        )

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
        if self.state != "refused" and not self._ending.begun:
            self._ending.fail("The server failed at this stream; its log says why.")

    def on_worker_lost(self) -> None:
        """Tells the owner, unless it happens again and again; the next worker carries on."""
        if self.state == "opening":
            return
        self.state = "lost"
        self._restarts += 1
        if self._restarts > MAX_RESTARTS_WITHOUT_A_FRAME:
            self._ending.fail("The worker died again and again on this stream.")
        else:
            self._audience.tell_all(
                error_event(
                    EngineRestarting("The worker died and is being replaced; the stream goes on soon.")
                )
            )

    def on_worker_ready(self) -> None:
        """Goes on with the new worker, which is told once more what the old one was told before it opened."""
        self._open()
        if self.state == "opening":
            self._steering.repeat()

    def _open(self) -> None:
        """Asks for the stream; the last attempt takes no snapshot, should that be what the workers die of."""
        self._steering.open(
            restore=self.state == "lost" and self._restarts < MAX_RESTARTS_WITHOUT_A_FRAME,
            changes=self._record.log.changes_since(self._at.oldest_kept_us),
        )

    def _on_opened(self, report: StreamOpened) -> None:
        resumed = self.state == "lost"
        self.state = "live"
        self.opened = report
        self._at.size, self._at.fps = report.size, report.fps
        if not resumed:
            self._record.log.began(
                model=self.model, fps=report.fps, prompt=self._at.prompt, size=self._at.size
            )
            if self._audience.owner is not None:
                self._audience.tell_owner(self.started_event(report, self._audience.owner))
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
        self._audience.tell_all(
            SessionResumed(session_id=self._identity.session_id, first_pts_us=first_us, state=state)
        )
        self._steering.repeat()

    def _on_refused(self, report: CommandRefused) -> None:
        self._metrics.refused.labels(code=report.code).inc()
        self._audience.tell_owner(refusal_event(report))
        if report.event_id is not None:
            self._steering.pending.forget(report.event_id)
            self._trail.prompt_refused(report.event_id)
            return
        if self.opened is not None:
            # It had begun with a worker that is gone, so there is a recording to complete.
            self._ending.finish("engine_fault", ENGINE_FAULT)
            return
        for event in self._steering.pending:
            self._audience.tell_owner(
                error_event(UnexpectedEvent("The session did not start."), event.event_id)
            )
        self.state = "refused"
        self._trail.over("refused", 0)
        self._record.discard()
        self._supervisor.detach(self._identity.session_id)

    def _on_change(self, report: GenerationStarted | PromptShown | SizeShown) -> None:
        if isinstance(report, GenerationStarted):
            self._at.generation = report.generation
            self._feed.announce(report)
            self._keep()
        elif isinstance(report, PromptShown):
            self._trail.prompt_shown(report.event_id, report.first_pts_us)
            change = self._steering.pending.prompt_shown(report.event_id, report.first_pts_us)
            if change is not None:
                self._at.prompt = change.prompt
                self._record.log.prompt_shown(report, change)
            self._audience.tell_owner(
                PromptApplied(event_id=report.event_id, first_pts_us=report.first_pts_us)
            )
        else:
            self._at.size, self._at.asked_size = report.size, report.asked_size
            self._at.sr_share = report.sr_share
            self._record.log.size_shown(report)
            if report.reason == "requested":
                self._steering.pending.size_shown(report.event_id)
            self._audience.tell_all(
                quality_event(self._at, report.reason, bitrate_share=self._steering.bitrate_share)
            )

    def _on_media(self, packet: MediaPacket) -> None:
        self._trail.packet_sent(packet.seq, packet.pts_us)
        self._meter.count(packet, self._steering.pending.seconds_until(packet.pts_us))
        self._at.next_index = packet.seq + 1
        self._restarts = 0
        self._feed.put(packet)
        self._steering.adapt()

    def _on_stats(self, report: StreamStats) -> None:
        self._meter.take(report)
        if self._audience.owner is not None:
            self._audience.owner.tell(stats_event(report, bitrate_share=self._steering.bitrate_share))

    def _on_ended(self, report: StreamEnded) -> None:
        if report.reason == "engine_fault":
            self._ending.fail(
                "The engine could not make the next frames of this stream; the server's log says why."
            )
        else:
            self._ending.finish(report.reason)
