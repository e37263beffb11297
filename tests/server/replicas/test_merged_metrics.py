"""Metrics of several replicas on one page."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ultraflash.server.metrics import Metrics
from ultraflash.server.replicas.merged_metrics import merged


def page(frames: int, reason: str) -> str:
    metrics = Metrics()
    metrics.frames.inc(frames)
    metrics.sessions_ended.labels(reason=reason).inc()
    metrics.first_frame.observe(0.3)
    return generate_latest(metrics.registry).decode()


def test_every_sample_of_every_replica_is_there_once_under_its_number() -> None:
    pages = {0: page(5, "stopped"), 2: page(7, "left")}
    text = merged(pages, ready=1, missing=1, resting=2, restarts=3).decode()
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for number, one in pages.items():
        for family in text_string_to_metric_families(one):
            for sample in family.samples:
                labels = frozenset({**sample.labels, "replica": str(number)}.items())
                assert found[sample.name, labels] == sample.value
    assert found["ultraflash_replicas", frozenset({("state", "missing")})] == 1
    assert found["ultraflash_replica_restarts_total", frozenset()] == 3
    assert text.count("# TYPE ultraflash_frames_total counter") == 1
    assert text.count("# TYPE ultraflash_first_frame_seconds histogram") == 1
