"""What is in force in a stream and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ultraflash.server.worker.messages import OpenStream
from ultraflash.server.worker.stream_snapshot import MOST_FRAMES_AGAIN

# The largest number that a media header holds.
MAX_INDEX = 2**32 - 1
MOST_UNSTORED_S = 60
"""How much further than it was last stored a stream can have come, beyond any doubt."""


@dataclass(slots=True, kw_only=True)
class StreamPosition:
    """What a new worker needs to go on after the old one has died.

    Attributes:
        asked_size: by the owner, ``auto`` included.
        size: in force; that asked for until the worker has chosen one.
        sr_share: of the attention of super-resolution that is kept.
        fps: the preset's own rate if None.
        bitrate: what the owner has asked for, if anything.
        paused: by the owner.
        next_index: number of the next frame.
        playhead_us: what the owner has seen.
        reference: file of the frames that a new stream starts from; None for none.
    """

    prompt: str
    asked_size: str
    size: str
    seed: int
    fps: int | None
    max_frames: int | None
    bitrate: int | None = None
    paused: bool = False
    next_index: int = 0
    generation: int = 0
    playhead_us: float = 0.0
    reference: str | None = None
    sr_share: float = 1.0

    @property
    def next_us(self) -> float:
        """Time of the next frame."""
        return self._pts_us(self.next_index)

    @property
    def newest_us(self) -> float:
        """Time of the newest frame."""
        return self._pts_us(self.next_index - 1)

    def went_on_to(self, pts_us: float | None) -> None:
        """A frame of that time was sent, which is the newest one that anybody has; None says nothing new."""
        if pts_us is None or self.fps is None:
            return
        index = round(pts_us * self.fps / 1e6)
        most = self.next_index + self.fps * MOST_UNSTORED_S
        if 0 <= index < min(most, MAX_INDEX):
            self.next_index = index + 1

    @property
    def oldest_kept_us(self) -> float:
        """Time of the oldest frame that a worker may have to make again to go on from here."""
        return self._pts_us(max(0, self.next_index - MOST_FRAMES_AGAIN))

    def opening(
        self,
        stream_id: str,
        *,
        resting: bool,
        restore: bool,
        changes: list[dict[str, Any]],
        trace: str | None,
    ) -> OpenStream:
        """The command that makes a worker go on from here, or wait there.

        Args:
            stream_id: of the stream.
            resting: whether it waits.
            restore: whether a snapshot of the stream may be used.
            changes: log entries of what a snapshot may not know yet.
            trace: context of the session's span.
        """
        return OpenStream(
            stream_id=stream_id,
            prompt=self.prompt,
            asked_size=self.asked_size,
            size=self.size,
            seed=self.seed,
            fps=self.fps,
            bitrate=self.bitrate,
            max_frames=self.max_frames,
            paused=resting,
            first_index=self.next_index,
            generation=self.generation,
            playhead_us=self.playhead_us,
            restore=restore,
            changes=changes,
            sr_share=self.sr_share,
            reference=self.reference,
            trace=trace,
        )

    def _pts_us(self, index: int) -> float:
        return index * 1e6 / self.fps if self.fps else 0.0
