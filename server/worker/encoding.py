"""Encoding of live streams on a thread of its own, so that the engine never waits for the encoder.

Axis letters: T frames, H rows, W columns, C the channels R, G, B.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ultraflash.server.logs import fields
from ultraflash.server.media.h264 import (
    AccessUnit,
    H264Config,
    H264Encoder,
    default_bitrate,
    picture_size,
)
from ultraflash.server.protocol import MediaFlags
from ultraflash.server.tracing import NO_TRACER, Tracer
from ultraflash.server.worker.messages import GenerationStarted, MediaPacket, StreamEnded, StreamReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

GROUPS_IN_HAND = 1
COSTS_KEPT = 4
SMALLEST_BITRATE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCost:
    """What one group cost: frames, seconds by stage, encoded bytes."""

    frames: int
    stages: Mapping[str, float]
    encoded_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameGroup:
    """Frames of one group on their way to the encoder.

    Attributes:
        frames_THWC: uint8 RGB, or planes as `H264Encoder.encode` takes them.
        size: name of the size.
        first_index: number of the first frame.
        captured_ms: Unix time in milliseconds at which the engine returned them.
        discontinuity: whether the first frame does not continue the one before.
        seconds: the engine's, by stage.
        keep: keeps the stream behind this group, once its frames have been sent.
        trace: context of the group's span.
    """

    frames_THWC: NDArray[np.uint8]
    size: str
    first_index: int
    captured_ms: float
    discontinuity: bool
    seconds: Mapping[str, float]
    keep: Callable[[], None] | None = None
    trace: str | None = None


class StreamEncoder:
    """Turns the groups of one stream into packets; used from the encoding thread but for the two requests."""

    def __init__(
        self,
        stream_id: str,
        config: H264Config,
        *,
        generation: int,
        bitrate: int | None,
    ) -> None:
        self.stream_id = stream_id
        self.costs: deque[GroupCost] = deque(maxlen=COSTS_KEPT)
        self.stage_seconds: dict[str, float] = {}
        self.closed = False
        self._encoder = H264Encoder(config)
        self._generation = generation
        self._announced = False
        self._bitrate = bitrate
        self._wanted_bitrate: int | None = None
        self._share = 1.0
        self._wanted_share: float | None = None
        self._wanted_key = threading.Event()

    @property
    def codec(self) -> str:
        """Codec string of the current encoder."""
        return self._encoder.parameter_sets.codec

    def request_key(self) -> None:
        """Makes the next encoded frame a keyframe."""
        self._wanted_key.set()

    def request_bitrate(self, bitrate: int) -> None:
        """Changes the bitrate at the next frame."""
        self._wanted_bitrate = bitrate

    def request_share(self, share: float) -> None:
        """Uses only this share of the bitrate from the next frame on."""
        self._wanted_share = share

    def encode(self, group: FrameGroup, emit: Callable[[StreamReport], None]) -> None:
        """Encodes a group, handing over every packet as soon as it is there."""
        start = time.perf_counter()
        self._follow_size(group)
        size = 0
        for offset, frame_HWC in enumerate(group.frames_THWC):
            self._follow_bitrate()
            if self.closed:
                return
            key = not self._announced or self._wanted_key.is_set()
            self._wanted_key.clear()
            for unit in self._encoder.encode(frame_HWC, group.first_index + offset, key=key):
                if not self._announced:
                    self._announce(group, emit)
                size += self._emit(group, unit, emit)
        seconds = {**group.seconds, "encode": time.perf_counter() - start}
        if group.keep is not None:
            start = time.perf_counter()
            group.keep()
            seconds["keep"] = seconds.get("keep", 0.0) + time.perf_counter() - start
        # A new one, since it is read on another thread.
        self.stage_seconds = {
            stage: self.stage_seconds.get(stage, 0.0) + seconds.get(stage, 0.0)
            for stage in {**self.stage_seconds, **seconds}
        }
        self.costs.append(GroupCost(frames=len(group.frames_THWC), stages=seconds, encoded_bytes=size))

    def _follow_size(self, group: FrameGroup) -> None:
        config = self._encoder.config
        size = picture_size(group.frames_THWC.shape[1:])
        # A shape that no encoder takes is for the encoder to refuse.
        if size is not None and size != (config.width, config.height):
            width, height = size
            live = H264Config.live(width=width, height=height, fps=config.fps, bitrate=self._bitrate)
            self._encoder = H264Encoder(live)
            self._announced = False
            self._wanted_share = self._share

    def _follow_bitrate(self) -> None:
        bitrate, self._wanted_bitrate = self._wanted_bitrate, None
        if bitrate is not None:
            self._bitrate = bitrate
            before = self._encoder.parameter_sets
            self._encoder.set_bitrate(bitrate)
            if self._encoder.parameter_sets != before:
                self._announced = False
        share, self._wanted_share = self._wanted_share, None
        if share is not None or bitrate is not None:
            self._share = self._share if share is None else share
            self._use_share()

    def _use_share(self) -> None:
        config = self._encoder.config
        ceiling = self._bitrate or default_bitrate(config.width, config.height)
        self._encoder.set_bitrate(max(round(self._share * ceiling), min(SMALLEST_BITRATE, ceiling)))

    def _announce(self, group: FrameGroup, emit: Callable[[StreamReport], None]) -> None:
        """Begins a generation with its description."""
        config = self._encoder.config
        self._announced = True
        self._generation += 1
        emit(
            GenerationStarted(
                stream_id=self.stream_id,
                generation=self._generation,
                codec=self.codec,
                size=group.size,
                width=config.width,
                height=config.height,
                fps=config.fps,
            )
        )

    def _emit(self, group: FrameGroup, unit: AccessUnit, emit: Callable[[StreamReport], None]) -> int:
        flags = MediaFlags.KEY if unit.key else MediaFlags(0)
        if group.discontinuity and unit.index == group.first_index:
            flags |= MediaFlags.DISCONTINUITY
        emit(
            MediaPacket(
                stream_id=self.stream_id,
                flags=int(flags),
                generation=self._generation & 0xFFFF,
                seq=unit.index,
                pts_us=unit.index * 1e6 / self._encoder.config.fps,
                capture_ms=group.captured_ms,
                payload=unit.data,
            )
        )
        return len(unit.data)


class EncodingThread:
    """Encodes the groups of all streams in the order they come; at most one waits while one is in work."""

    def __init__(self, emit: Callable[[StreamReport], None], tracer: Tracer = NO_TRACER) -> None:
        self._emit = emit
        self._tracer = tracer
        self._jobs: queue.Queue[tuple[StreamEncoder, FrameGroup | str]] = queue.Queue(maxsize=GROUPS_IN_HAND)
        self._thread = threading.Thread(target=self._run, name="encoding", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def encode(self, encoder: StreamEncoder, group: FrameGroup) -> None:
        """Hands over a group; waits while another one is waiting already."""
        self._jobs.put((encoder, group))

    def end(self, encoder: StreamEncoder, reason: str) -> None:
        """Reports the end of a stream behind its last packet."""
        self._jobs.put((encoder, reason))

    def _run(self) -> None:
        while True:
            encoder, job = self._jobs.get()
            if encoder.closed:
                continue
            if isinstance(job, str):
                encoder.closed = True
                self._emit(StreamEnded(stream_id=encoder.stream_id, reason=job))
                continue
            span = self._tracer.span("encode", parent=job.trace, session=encoder.stream_id)
            try:
                encoder.encode(job, self._emit)
                span.end(frames=len(job.frames_THWC))
            except Exception:
                span.end(failed=True)
                log.exception("encoding failed", extra=fields(session=encoder.stream_id))
                encoder.closed = True
                self._emit(StreamEnded(stream_id=encoder.stream_id, reason="engine_fault"))
