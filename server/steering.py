"""What the owner of a session wants of its stream, on its way to the worker."""

from __future__ import annotations

from typing import Any

from ultraflash.server.audience import Audience
from ultraflash.server.errors import AckOutOfRange, InvalidField
from ultraflash.server.media_feed import MediaFeed
from ultraflash.server.pending_changes import PendingChanges
from ultraflash.server.protocol import PlaybackAck, PromptUpdate, SessionControl
from ultraflash.server.session_trail import SessionTrail
from ultraflash.server.stream_position import StreamPosition
from ultraflash.server.stream_stats import quality_event
from ultraflash.server.worker.messages import (
    AckPlayback,
    AdaptBitrate,
    CloseStream,
    ControlStream,
    SetPrompt,
)
from ultraflash.server.worker.supervisor import WorkerSupervisor

# One late frame or two are no news, and an owner who has heard of fewer bits hears of it when all are back.
TOLD_FROM_SHARE = 0.5


class Steering:
    """Commands of one session.

    Attributes:
        pending: changes that have been asked for and not been shown.
        bitrate_share: of the bitrate that the owner has allowed, what its connection carries.
    """

    def __init__(
        self,
        stream_id: str,
        at: StreamPosition,
        *,
        pending: PendingChanges,
        audience: Audience,
        feed: MediaFeed,
        supervisor: WorkerSupervisor,
        trail: SessionTrail,
    ) -> None:
        self.pending = pending
        self.bitrate_share = 1.0
        self._stream_id = stream_id
        self._at = at
        self._audience = audience
        self._feed = feed
        self._supervisor = supervisor
        self._trail = trail
        self._told_of_fewer_bits = False
        self._closed = False

    def open(self, *, restore: bool, changes: list[dict[str, Any]]) -> None:
        """Asks a worker for the stream, from where it is; see ``OpenStream``."""
        self._supervisor.send(
            self._at.opening(
                self._stream_id,
                resting=self._resting,
                restore=restore,
                changes=changes,
                trace=self._trail.context,
            )
        )

    def close(self) -> None:
        """Tells the worker that the stream is not wanted any more."""
        self._closed = True
        self._supervisor.send(CloseStream(stream_id=self._stream_id))

    def rest(self) -> None:
        """Tells the worker whether to work on."""
        self._supervisor.send(
            ControlStream(
                stream_id=self._stream_id, event_id="", size=None, paused=self._resting, bitrate=None
            )
        )

    @property
    def _resting(self) -> bool:
        return self._at.paused or self._audience.owner is None

    def repeat(self) -> None:
        """Tells a new worker what the old one was told and did not show."""
        if self._audience.owner is not None:
            self.set_share(self._audience.owner.control.share)
        for event in self.pending:
            if isinstance(event, PromptUpdate):
                self.update_prompt(event)
            else:
                self.control(event)

    def update_prompt(self, event: PromptUpdate) -> None:
        """Passes a new prompt on."""
        self.note_prompt(event)
        self._supervisor.send(
            SetPrompt(
                stream_id=self._stream_id,
                event_id=event.event_id,
                prompt=event.prompt,
                transition=event.transition,
                groups=event.spread,
                trace=self._trail.prompt_asked(event.event_id, event.prompt),
            )
        )

    def note_prompt(self, event: PromptUpdate) -> None:
        """A new prompt waits from now on."""
        self.pending.check_room(event.event_id)
        self.pending.add(event)

    def control(self, event: SessionControl) -> None:
        """Passes on what the owner wants changed."""
        if event.size is None and event.paused is None and event.bitrate is None:
            raise InvalidField(
                "session.control needs size, paused or bitrate.", param="size", event_id=event.event_id
            )
        self.pending.check_room(event.event_id)
        if event.paused is not None:
            self._at.paused = event.paused
        if event.bitrate is not None:
            self._at.bitrate = event.bitrate
        if event.size is not None:
            self.pending.add(event)
        self._supervisor.send(
            ControlStream(
                stream_id=self._stream_id,
                event_id=event.event_id,
                size=event.size,
                paused=event.paused,
                bitrate=event.bitrate,
            )
        )

    def ack(self, event: PlaybackAck) -> None:
        """Moves the playhead. Raises ``AckOutOfRange`` for a frame that has not been sent."""
        last_us = self._at.newest_us
        if event.seq >= self._at.next_index or event.pts_us > last_us + 1:
            raise AckOutOfRange(
                f"playback.ack of frame {event.seq} at {event.pts_us:.0f} us; "
                f"the newest one sent is {self._at.next_index - 1} at {last_us:.0f} us."
            )
        self.move_playhead(event.pts_us)
        if self._audience.owner is not None:
            self._audience.owner.control.received(event.pts_us, event.buffered_ms * 1000)

    def adapt(self) -> None:
        """Follows what the owner's connection carries."""
        owner = self._audience.owner
        if owner is None or self._closed:
            return
        if self._at.paused:
            owner.control.rest()
        owner.adapt(set_share=self.set_share, go_on=self._skip_to_newest, last_resort=self.adapt)

    def set_share(self, share: float) -> None:
        """Sets the share of its bitrate that the stream may use; everybody hears of much less, and of all again."""
        self._supervisor.send(AdaptBitrate(stream_id=self._stream_id, share=share))
        self.bitrate_share = share
        is_news = share == 1 if self._told_of_fewer_bits else share <= TOLD_FROM_SHARE
        if is_news:
            self._told_of_fewer_bits = not self._told_of_fewer_bits
            self._audience.tell_all(quality_event(self._at, "connection", bitrate_share=share))

    def move_playhead(self, seen_us: float) -> None:
        """The owner has seen everything up to there, or will not get it."""
        self._at.playhead_us = max(self._at.playhead_us, seen_us)
        self._supervisor.send(AckPlayback(stream_id=self._stream_id, pts_us=seen_us))

    def _skip_to_newest(self) -> None:
        """Frames that the owner will not get must not be waited for."""
        self.move_playhead(self._at.newest_us)
        self._feed.request_key()
