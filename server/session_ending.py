"""The end of a session, which is told once its recording is complete."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ultraflash.server.audience import Audience
from ultraflash.server.error_events import error_event
from ultraflash.server.errors import EngineFault
from ultraflash.server.metrics import Metrics
from ultraflash.server.protocol import SessionDone
from ultraflash.server.session_record import SessionRecord
from ultraflash.server.session_trail import SessionTrail
from ultraflash.server.steering import Steering
from ultraflash.server.stream_position import StreamPosition
from ultraflash.server.worker.supervisor import WorkerSupervisor

DONE = 1000
ENGINE_FAULT = 1011


class SessionEnding:
    """Ends one session that has begun.

    Attributes:
        reason: why it has ended; None while it goes on.
    """

    def __init__(
        self,
        session_id: str,
        at: StreamPosition,
        *,
        audience: Audience,
        record: SessionRecord,
        steering: Steering,
        trail: SessionTrail,
        supervisor: WorkerSupervisor,
        metrics: Metrics,
        keep: Callable[[], None],
    ) -> None:
        """``keep`` is called to have the session stored."""
        self.reason: str | None = None
        self._session_id = session_id
        self._at = at
        self._audience = audience
        self._record = record
        self._steering = steering
        self._trail = trail
        self._supervisor = supervisor
        self._metrics = metrics
        self._keep = keep
        self._told: tuple[SessionDone, int] | None = None

    @property
    def begun(self) -> bool:
        """Whether the session will not go on."""
        return self.reason is not None

    @property
    def told(self) -> bool:
        """Whether everybody has heard of it."""
        return self._told is not None

    def finish(self, reason: str, code: int = DONE) -> None:
        """Ends it; connections are closed with ``code`` when the recording is complete."""
        self.reason = reason
        self._keep()
        self._steering.close()
        self._supervisor.detach(self._session_id)
        self._metrics.sessions_ended.labels(reason=reason).inc()
        self._trail.over(reason, self._at.next_index)
        self._record.complete(reason, partial(self._tell, reason, code))

    def fail(self, message: str) -> None:
        """Ends it because of an engine fault, of which everybody hears."""
        self._audience.tell_all(error_event(EngineFault(message)))
        self.finish("engine_fault", ENGINE_FAULT)

    def tell_late_owner(self) -> None:
        """Tells an owner that was away while everybody else was told."""
        if self._told is not None:
            self._audience.dismiss_owner(*self._told)

    def _tell(self, reason: str, code: int, recording: list[str] | None) -> None:
        done = SessionDone(
            reason=reason, frames=self._at.next_index, replay=self._record.replay, recording=recording
        )
        self._told = (done, code)
        self._audience.dismiss_viewers(done, code)
        self._audience.dismiss_owner(done, code)
