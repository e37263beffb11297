"""What is in force in a stream and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass

from ultraflash.server.worker.messages import OpenStream


@dataclass(slots=True, kw_only=True)
class StreamPosition:
    """What a new worker needs to go on after the old one has died.

    Attributes:
        asked_size: by the owner, ``auto`` included.
        size: in force; that asked for until the worker has chosen one.
        fps: the preset's own rate if None.
        bitrate: what the owner has asked for, if anything.
        paused: by the owner.
        next_index: number of the next frame.
        playhead_us: what the owner has seen.
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

    @property
    def next_us(self) -> float:
        """Time of the next frame."""
        return self._pts_us(self.next_index)

    @property
    def newest_us(self) -> float:
        """Time of the newest frame."""
        return self._pts_us(self.next_index - 1)

    def opening(self, stream_id: str, *, resting: bool) -> OpenStream:
        """The command that makes a worker go on from here, or wait there."""
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
        )

    def _pts_us(self, index: int) -> float:
        return index * 1e6 / self.fps if self.fps else 0.0
