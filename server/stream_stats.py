"""What a stream reports each second: as an event for its owner, and as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ultraflash.server.metrics import Metrics
from ultraflash.server.protocol import QualityChanged, Stats
from ultraflash.server.stream_position import StreamPosition
from ultraflash.server.worker.messages import MediaPacket, StreamStats


def stats_event(report: StreamStats, *, bitrate_share: float) -> Stats:
    """The event that tells an owner."""
    return Stats(
        generated_fps=report.generated_fps,
        encoded_kbps=report.encoded_kbps,
        bitrate_share=round(bitrate_share, 2),
        ahead_ms=report.ahead_ms,
        deadline_misses=report.deadline_misses,
        stages=report.stages,
        steps_saved=report.steps_saved,
        refreshes_skipped=report.refreshes_skipped,
        cache_occupancy=report.cache_occupancy,
    )


def quality_event(at: StreamPosition, reason: str, *, bitrate_share: float) -> QualityChanged:
    """The event that tells of another size, or of less or more of its detail or its bits."""
    return QualityChanged(
        size=at.size,
        reason=reason,
        sr_share=None if at.sr_share == 1 else at.sr_share,
        bitrate_share=None if bitrate_share == 1 else round(bitrate_share, 2),
    )


class StatsMeter:
    """Measures one stream. What it left out, and what was late, comes as sums, which begin anew with a new stream."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started_at = time.monotonic()
        self.begin()

    def begin(self) -> None:
        """The sums of the next report start from 0."""
        self._steps = self._refreshes = 0
        self.go_on()

    def go_on(self) -> None:
        """Another worker goes on with the stream and its sums of what was left out; its own sums start from 0."""
        self._misses = 0
        self._stage_seconds: Mapping[str, float] = {}

    def count(self, packet: MediaPacket, prompts_took_s: Iterable[float]) -> None:
        """A packet has come, the first one of prompts that were asked for so many seconds ago."""
        if packet.seq == 0:
            self._metrics.first_frame.observe(time.monotonic() - self._started_at)
        for seconds in prompts_took_s:
            self._metrics.prompt_to_frame.observe(seconds)
        self._metrics.frames.inc()
        self._metrics.encoded_bytes.inc(len(packet.payload))

    def take(self, report: StreamStats) -> None:
        """Sets what is measured now and adds what is new since the report before."""
        for stage, milliseconds in report.stages.items():
            self._metrics.stage.labels(stage=stage).set(milliseconds)
        for stage, seconds in report.stage_seconds.items():
            spent = seconds - self._stage_seconds.get(stage, 0.0)
            self._metrics.stage_seconds.labels(stage=stage).inc(max(0.0, spent))
        self._stage_seconds = report.stage_seconds
        self._metrics.ahead.set(report.ahead_ms)
        self._metrics.deadline_misses.inc(max(0, report.deadline_misses - self._misses))
        self._misses = report.deadline_misses
        self._metrics.steps_saved.inc(max(0, report.steps_saved - self._steps))
        self._metrics.refreshes_skipped.inc(max(0, report.refreshes_skipped - self._refreshes))
        self._steps, self._refreshes = report.steps_saved, report.refreshes_skipped
        for cache, part in report.cache_occupancy.items():
            self._metrics.cache_occupancy.labels(cache=cache).set(part)
