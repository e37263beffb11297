"""Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)


class Metrics:
    """What METRICS.md lists, for one app; each app has a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(name, meaning, labels, registry=registry)

        def histogram(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, buckets=SECONDS, registry=registry)

        self.connections = gauge("ultraflash_connections", "Open stream connections.")
        self.sessions = gauge("ultraflash_sessions", "Live sessions.")
        self.waiting = gauge("ultraflash_sessions_waiting", "Clients in the queue for a live session.")
        self.viewers = gauge("ultraflash_viewers", "Viewers of live sessions.")
        self.sessions_ended = counter("ultraflash_sessions_ended", "Sessions that are over.", "reason")
        self.refused = counter("ultraflash_refused", "Messages and sessions that were refused.", "code")
        self.frames = counter("ultraflash_frames", "Encoded frames.")
        self.encoded_bytes = counter("ultraflash_encoded_bytes", "Encoded media.")
        self.dropped_frames = counter(
            "ultraflash_dropped_frames", "Frames that clients were too slow to read."
        )
        self.first_frame = histogram(
            "ultraflash_first_frame_seconds", "From session.start to the first packet."
        )
        self.prompt_to_frame = histogram(
            "ultraflash_prompt_to_frame_seconds", "From prompt.update to the first packet that shows it."
        )
        self.stage = gauge("ultraflash_stage_ms_per_frame", "Milliseconds a frame, newest report.", "stage")
        self.stage_seconds = counter(
            "ultraflash_stage_seconds", "Seconds that streams spent in a stage.", "stage"
        )
        self.ahead = gauge("ultraflash_ahead_ms", "Media beyond the playhead, newest report.")
        self.deadline_misses = counter(
            "ultraflash_deadline_misses", "Groups of frames that came after their playout deadline."
        )
        self.steps_saved = counter("ultraflash_steps_saved", "Denoising passes that streams left out.")
        self.refreshes_skipped = counter(
            "ultraflash_cache_refreshes_skipped", "Passes that only refresh a cache, which streams left out."
        )
        self.cache_occupancy = gauge(
            "ultraflash_cache_occupancy",
            "Part of a cache that the next block can see, newest report.",
            "cache",
        )
        self.resumed = counter("ultraflash_streams_resumed", "Streams on a new worker.", "state")
        self.worker_restarts = gauge("ultraflash_worker_restarts", "Workers that were replaced.")
        self.resident = gauge("ultraflash_resident_bytes", "Resident memory of a process.", "process")
        self.gpu_used = gauge(
            "ultraflash_gpu_memory_used_bytes",
            "Memory of a GPU of the worker that is in use, by anybody.",
            "gpu",
        )
        self.gpu_total = gauge(
            "ultraflash_gpu_memory_total_bytes", "Memory that a GPU of the worker has.", "gpu"
        )
        self.jobs_ended = counter("ultraflash_jobs_ended", "Video jobs that are over.", "status")
        self.job_frames = counter("ultraflash_job_frames", "Encoded frames of video jobs.")
        self.background_failures = counter(
            "ultraflash_background_failures",
            "Rounds of background work of the web process that failed.",
            "task",
        )
        self.ready = gauge("ultraflash_ready", "1 while streams can be started.")

    def show_gpus(self, gpus: Mapping[str, Sequence[int]]) -> None:
        """Bytes in use and in total by GPU; those that are not named have no values any more."""
        for gauge in (self.gpu_used, self.gpu_total):
            gauge.clear()
        for name, (used, total) in gpus.items():
            self.gpu_used.labels(gpu=name).set(used)
            self.gpu_total.labels(gpu=name).set(total)
