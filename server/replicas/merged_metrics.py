"""The metrics of several replicas as one page: the same names, with the label ``replica``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families


class _Given:
    """A collector of metrics that are there already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield from self._metrics


def merged(pages: Mapping[int, str], *, ready: int, missing: int, resting: int, restarts: int) -> bytes:
    """One page in Prometheus' text format.

    Args:
        pages: those of the replicas, by number.
        ready, missing, resting: replicas that can start streams, those that cannot now, and those that have failed
            so often that they are left alone for a while.
        restarts: replicas that were replaced since the front has begun.
    """
    families: dict[str, Metric] = {}
    for number, page in pages.items():
        for family in text_string_to_metric_families(page):
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "replica": str(number)}
                kept.add_sample(sample.name, labels, sample.value)
    replicas = GaugeMetricFamily("ultraflash_replicas", "Replicas by state.", labels=["state"])
    replicas.add_metric(["ready"], ready)
    replicas.add_metric(["missing"], missing)
    replicas.add_metric(["resting"], resting)
    replaced = CounterMetricFamily("ultraflash_replica_restarts", "Replicas that were replaced.")
    replaced.add_metric([], restarts)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given([*families.values(), replicas, replaced]))
    return generate_latest(registry)
