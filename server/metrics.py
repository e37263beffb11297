"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)


class Metrics:
    """What METRICS.md lists, for one app; each app has a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.connections = Gauge("ultraflash_connections", "Open stream connections.", registry=registry)
        self.sessions = Gauge("ultraflash_sessions", "Live sessions.", registry=registry)
        self.waiting = Gauge(
            "ultraflash_sessions_waiting", "Clients in the queue for a live session.", registry=registry
        )
        self.viewers = Gauge("ultraflash_viewers", "Viewers of live sessions.", registry=registry)
        self.sessions_ended = Counter(
            "ultraflash_sessions_ended", "Sessions that are over.", ["reason"], registry=registry
        )
        self.refused = Counter(
            "ultraflash_refused", "Messages and sessions that were refused.", ["code"], registry=registry
        )
        self.frames = Counter("ultraflash_frames", "Encoded frames.", registry=registry)
        self.encoded_bytes = Counter("ultraflash_encoded_bytes", "Encoded media.", registry=registry)
        self.dropped_frames = Counter(
            "ultraflash_dropped_frames", "Frames that clients were too slow to read.", registry=registry
        )
        self.first_frame = Histogram(
            "ultraflash_first_frame_seconds",
            "From session.start to the first packet.",
            buckets=SECONDS,
            registry=registry,
        )
        self.prompt_to_frame = Histogram(
            "ultraflash_prompt_to_frame_seconds",
            "From prompt.update to the first packet that shows it.",
            buckets=SECONDS,
            registry=registry,
        )
        self.stage = Gauge(
            "ultraflash_stage_ms_per_frame",
            "Milliseconds a frame, newest report.",
            ["stage"],
            registry=registry,
        )
        self.stage_seconds = Counter(
            "ultraflash_stage_seconds",
            "Seconds that streams spent in a stage.",
            ["stage"],
            registry=registry,
        )
        self.ahead = Gauge(
            "ultraflash_ahead_ms", "Media beyond the playhead, newest report.", registry=registry
        )
        self.deadline_misses = Counter(
            "ultraflash_deadline_misses",
            "Groups of frames that came after their playout deadline.",
            registry=registry,
        )
        self.steps_saved = Counter(
            "ultraflash_steps_saved", "Denoising passes that streams left out.", registry=registry
        )
        self.refreshes_skipped = Counter(
            "ultraflash_cache_refreshes_skipped",
            "Passes that only refresh a cache, which streams left out.",
            registry=registry,
        )
        self.cache_occupancy = Gauge(
            "ultraflash_cache_occupancy",
            "Part of a cache that the next block can see, newest report.",
            ["cache"],
            registry=registry,
        )
        self.resumed = Counter(
            "ultraflash_streams_resumed", "Streams on a new worker.", ["state"], registry=registry
        )
        self.worker_restarts = Gauge(
            "ultraflash_worker_restarts", "Workers that were replaced.", registry=registry
        )
        self.resident = Gauge(
            "ultraflash_resident_bytes", "Resident memory of a process.", ["process"], registry=registry
        )
        self.jobs_ended = Counter(
            "ultraflash_jobs_ended", "Video jobs that are over.", ["status"], registry=registry
        )
        self.job_frames = Counter("ultraflash_job_frames", "Encoded frames of video jobs.", registry=registry)
        self.ready = Gauge("ultraflash_ready", "1 while streams can be started.", registry=registry)
