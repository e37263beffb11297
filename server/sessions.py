"""Live sessions in the web process: what the owner asked for, and what came of it.

A session holds no pictures. It remembers the prompt and size in force and the number of the next frame, which is
what a new worker needs to go on after the old one has died.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any, Literal

from ultraflash.models.errors import UltraflashError
from ultraflash.server.errors import (
    AckOutOfRange,
    EngineFault,
    EngineRestarting,
    InvalidField,
    ProtocolError,
    TooManyPending,
    UnexpectedEvent,
)
from ultraflash.server.metrics import Metrics
from ultraflash.server.outbox import Outbox
from ultraflash.server.protocol import (
    ErrorEvent,
    MediaFlags,
    MediaHeader,
    PlaybackAck,
    PromptApplied,
    PromptUpdate,
    QualityChanged,
    SessionControl,
    SessionDone,
    SessionResumed,
    SessionStart,
    SessionStarted,
    Stats,
    StreamConfig,
)
from ultraflash.server.worker.messages import (
    AckPlayback,
    CloseStream,
    CommandRefused,
    ControlStream,
    GenerationStarted,
    MediaPacket,
    OpenStream,
    PromptShown,
    RequestKeyframe,
    SetPrompt,
    SizeShown,
    StreamEnded,
    StreamOpened,
    StreamReport,
    StreamStats,
)
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)

MAX_RESTARTS_WITHOUT_A_FRAME = 3
MAX_WAITING = 64
BLEND_GROUPS = 4
DONE = 1000
ENGINE_FAULT = 1011

SessionState = Literal["opening", "live", "lost", "refused", "done"]


def error_event(error: UltraflashError, event_id: str | None = None) -> ErrorEvent:
    """An error as clients see it."""
    if isinstance(error, ProtocolError):
        event_id = event_id or error.event_id
    return ErrorEvent(code=error.code, message=error.message, retryable=error.retryable, event_id=event_id)


class LiveSession:
    """One session from ``session.start`` to ``session.done``."""

    def __init__(
        self, start: SessionStart, *, supervisor: WorkerSupervisor, outbox: Outbox, metrics: Metrics
    ) -> None:
        self.session_id = f"session_{secrets.token_hex(12)}"
        self.state: SessionState = "opening"
        self._start = start
        self._seed = secrets.randbelow(2**53) if start.seed is None else start.seed
        self._supervisor = supervisor
        self._outbox = outbox
        self._metrics = metrics
        self._prompt = start.prompt
        self._size = start.size
        self._fps = start.fps
        self._bitrate: int | None = None
        self._paused = False
        self._waiting: dict[str, PromptUpdate | SessionControl] = {}
        self._asked_at: dict[str, float] = {}
        self._shown_from: dict[str, float] = {}
        self._next_index = 0
        self._generation = 0
        self._playhead_us = 0.0
        self._restarts = 0
        self._left_out = 0, 0
        self._started_at = time.monotonic()
        self._log: list[dict[str, Any]] = []

    @property
    def over(self) -> bool:
        """Whether it will not go on."""
        return self.state in ("refused", "done")

    def open(self) -> None:
        """Asks the worker for the stream."""
        self._supervisor.attach(self.session_id, self)
        self._send_open()

    def update_prompt(self, event: PromptUpdate) -> None:
        """Passes a new prompt on. Raises ``InvalidField`` for a cut over several groups."""
        if event.transition == "cut" and event.groups is not None:
            raise InvalidField(
                "prompt.update takes groups with the transition 'blend' only; a cut shows in the next group.",
                param="groups",
                event_id=event.event_id,
            )
        self._check_room(event.event_id)
        self._waiting[event.event_id] = event
        self._asked_at[event.event_id] = time.monotonic()
        self._supervisor.send(
            SetPrompt(
                stream_id=self.session_id,
                event_id=event.event_id,
                prompt=event.prompt,
                transition=event.transition,
                groups=_groups(event),
            )
        )

    def control(self, event: SessionControl) -> None:
        """Passes on what the owner wants changed."""
        if event.size is None and event.paused is None and event.bitrate is None:
            raise InvalidField(
                "session.control needs size, paused or bitrate.", param="size", event_id=event.event_id
            )
        self._check_room(event.event_id)
        if event.paused is not None:
            self._paused = event.paused
        if event.bitrate is not None:
            self._bitrate = event.bitrate
        if event.size is not None:
            self._waiting[event.event_id] = event
        self._supervisor.send(
            ControlStream(
                stream_id=self.session_id,
                event_id=event.event_id,
                size=event.size,
                paused=event.paused,
                bitrate=event.bitrate,
            )
        )

    def ack(self, event: PlaybackAck) -> None:
        """Moves the playhead. Raises ``AckOutOfRange`` for a frame that has not been sent."""
        last_us = self._pts_us(self._next_index - 1)
        if event.seq >= self._next_index or event.pts_us > last_us + 1:
            raise AckOutOfRange(
                f"playback.ack of frame {event.seq} at {event.pts_us:.0f} us; "
                f"the newest one sent is {self._next_index - 1} at {last_us:.0f} us."
            )
        self._playhead_us = max(self._playhead_us, event.pts_us)
        self._supervisor.send(AckPlayback(stream_id=self.session_id, pts_us=event.pts_us))

    def request_key(self) -> None:
        """Asks for a keyframe."""
        self._supervisor.send(RequestKeyframe(stream_id=self.session_id))

    def stop(self) -> None:
        """Ends the session because its owner wants it."""
        self._outbox.drop_media()
        self._finish("stopped", DONE)

    def abandon(self) -> None:
        """Ends the session because its owner has gone."""
        if not self.over:
            self._leave("disconnected")

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

    def on_worker_lost(self) -> None:
        """Tells the owner, unless it happens again and again; the next worker carries on."""
        if self.state == "opening":
            return
        self.state = "lost"
        self._restarts += 1
        if self._restarts > MAX_RESTARTS_WITHOUT_A_FRAME:
            self._fail("The worker died again and again on this stream.")
        else:
            self._outbox.put_event(
                error_event(
                    EngineRestarting("The worker died and is being replaced; the stream goes on soon.")
                )
            )

    def on_worker_ready(self) -> None:
        """Goes on with the new worker."""
        self._send_open()

    def _send_open(self) -> None:
        self._supervisor.send(
            OpenStream(
                stream_id=self.session_id,
                prompt=self._prompt,
                size=self._size,
                seed=self._seed,
                fps=self._fps,
                transport=self._start.transport,
                bitrate=self._bitrate,
                max_frames=self._start.max_frames,
                paused=self._paused,
                first_index=self._next_index,
                generation=self._generation,
                playhead_us=self._playhead_us,
            )
        )

    def _on_opened(self, report: StreamOpened) -> None:
        resumed = self.state == "lost"
        self.state = "live"
        self._size, self._fps = report.size, report.fps
        if not resumed:
            self._log.append({"first_pts_us": 0.0, "prompt": self._prompt, "size": self._size})
            self._outbox.put_event(self._started_event(report))
            return
        self._left_out = 0, 0
        first_us = self._pts_us(self._next_index)
        self._log.append(
            {"first_pts_us": first_us, "restarted": True, "prompt": self._prompt, "size": self._size}
        )
        self._outbox.put_event(
            SessionResumed(session_id=self.session_id, first_pts_us=first_us, state="restarted")
        )
        for event in list(self._waiting.values()):
            if isinstance(event, PromptUpdate):
                self.update_prompt(event)
            else:
                self.control(event)

    def _started_event(self, report: StreamOpened) -> SessionStarted:
        return SessionStarted.model_validate(
            {
                "session_id": self.session_id,
                "codec": report.codec,
                "container": report.container,
                "width": report.width,
                "height": report.height,
                "fps": report.fps,
                "seed": self._seed,
                "model": self._model(),
            }
        )

    def _on_refused(self, report: CommandRefused) -> None:
        self._metrics.refused.labels(code=report.code).inc()
        self._outbox.put_event(
            ErrorEvent(
                code=report.code,
                message=report.message,
                retryable=report.retryable,
                event_id=report.event_id,
            )
        )
        if report.event_id is not None:
            self._forget(report.event_id)
            return
        for event_id in self._waiting:
            self._outbox.put_event(error_event(UnexpectedEvent("The session did not start."), event_id))
        self.state = "refused"
        self._supervisor.detach(self.session_id)

    def _on_change(self, report: GenerationStarted | PromptShown | SizeShown) -> None:
        if isinstance(report, GenerationStarted):
            self._generation = report.generation
            self._outbox.put_event(
                StreamConfig.model_validate(
                    {
                        "generation": report.generation & 0xFFFF,
                        "codec": report.codec,
                        "container": report.container,
                        "size": report.size,
                        "width": report.width,
                        "height": report.height,
                        "fps": report.fps,
                    }
                )
            )
        elif isinstance(report, PromptShown):
            asked = self._waiting.get(report.event_id)
            if isinstance(asked, PromptUpdate):
                self._prompt = asked.prompt
                self._log.append({"first_pts_us": report.first_pts_us, **_log_entry(asked)})
            self._waiting.pop(report.event_id, None)
            self._shown_from[report.event_id] = report.first_pts_us
            self._outbox.put_event(PromptApplied(event_id=report.event_id, first_pts_us=report.first_pts_us))
        else:
            self._size = report.size
            self._log.append({"first_pts_us": report.first_pts_us, "size": report.size})
            self._forget_sizes_up_to(report.event_id)
            self._outbox.put_event(QualityChanged(size=report.size, reason="requested"))

    def _on_media(self, packet: MediaPacket) -> None:
        flags = MediaFlags(packet.flags)
        if MediaFlags.INIT not in flags:
            self._count(packet)
        header = MediaHeader(
            flags=flags,
            generation=packet.generation,
            seq=packet.seq,
            pts_us=packet.pts_us,
            capture_ms=packet.capture_ms,
        )
        self._outbox.put_media(header, packet.payload)

    def _count(self, packet: MediaPacket) -> None:
        now = time.monotonic()
        if packet.seq == 0:
            self._metrics.first_frame.observe(now - self._started_at)
        for event_id, first_us in list(self._shown_from.items()):
            if packet.pts_us >= first_us:
                asked_at = self._asked_at.pop(event_id, None)
                if asked_at is not None:
                    self._metrics.prompt_to_frame.observe(now - asked_at)
                del self._shown_from[event_id]
        self._next_index = packet.seq + 1
        self._restarts = 0
        self._metrics.frames.inc()
        self._metrics.encoded_bytes.inc(len(packet.payload))

    def _on_stats(self, report: StreamStats) -> None:
        for stage, milliseconds in report.stages.items():
            self._metrics.stage.labels(stage=stage).set(milliseconds)
        self._metrics.ahead.set(report.ahead_ms)
        self._count_work_left_out(report)
        self._outbox.put_event(
            Stats(
                generated_fps=report.generated_fps,
                encoded_kbps=report.encoded_kbps,
                ahead_ms=report.ahead_ms,
                stages=report.stages,
                steps_saved=report.steps_saved,
                refreshes_skipped=report.refreshes_skipped,
                cache_occupancy=report.cache_occupancy,
            )
        )

    def _count_work_left_out(self, report: StreamStats) -> None:
        """Adds what is new since the report before; a stream's own counts begin anew with a new worker."""
        before_steps, before_refreshes = self._left_out
        self._left_out = report.steps_saved, report.refreshes_skipped
        self._metrics.steps_saved.inc(max(0, report.steps_saved - before_steps))
        self._metrics.refreshes_skipped.inc(max(0, report.refreshes_skipped - before_refreshes))
        for cache, part in report.cache_occupancy.items():
            self._metrics.cache_occupancy.labels(cache=cache).set(part)

    def _on_ended(self, report: StreamEnded) -> None:
        if report.reason == "engine_fault":
            self._fail("The engine could not make the next frames of this stream; the server's log says why.")
        else:
            self._finish(report.reason, DONE)

    def _fail(self, message: str) -> None:
        self._outbox.put_event(error_event(EngineFault(message)))
        self._finish("engine_fault", ENGINE_FAULT)

    def _finish(self, reason: str, code: int) -> None:
        self._leave(reason)
        self._outbox.put_event(SessionDone(reason=reason, frames=self._next_index, replay=self._replay()))
        self._outbox.close(code, reason)

    def _leave(self, reason: str) -> None:
        self.state = "done"
        self._supervisor.send(CloseStream(stream_id=self.session_id))
        self._supervisor.detach(self.session_id)
        self._metrics.sessions_ended.labels(reason=reason).inc()
        log.info("session over session=%s reason=%s frames=%d", self.session_id, reason, self._next_index)

    def _replay(self) -> dict[str, Any]:
        return {"model": self._model(), "seed": self._seed, "fps": self._fps, "events": self._log}

    def _model(self) -> str:
        return "" if self._supervisor.ready is None else self._supervisor.ready.model

    def _forget_sizes_up_to(self, event_id: str) -> None:
        """Of several sizes asked for before one group only the last one is shown and reported."""
        for waiting_id, event in list(self._waiting.items()):
            if isinstance(event, SessionControl):
                del self._waiting[waiting_id]
            if waiting_id == event_id:
                return

    def _check_room(self, event_id: str) -> None:
        if len(self._waiting) >= MAX_WAITING and event_id not in self._waiting:
            raise TooManyPending(
                f"{MAX_WAITING} changes wait for the next group already; wait for prompt.applied.",
                event_id=event_id,
            )

    def _forget(self, event_id: str) -> None:
        self._waiting.pop(event_id, None)
        self._asked_at.pop(event_id, None)

    def _pts_us(self, index: int) -> float:
        return index * 1e6 / self._fps if self._fps else 0.0


def _groups(event: PromptUpdate) -> int:
    """Groups over which a prompt changes."""
    if event.transition == "cut":
        return 1
    return event.groups or BLEND_GROUPS


def _log_entry(event: PromptUpdate) -> dict[str, Any]:
    """A change of prompt as the log of a session keeps it; a cut goes without saying."""
    if event.transition == "cut":
        return {"prompt": event.prompt}
    return {"prompt": event.prompt, "transition": event.transition, "groups": _groups(event)}
