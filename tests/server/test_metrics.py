"""``/metrics`` as Prometheus reads it is what METRICS.md says."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import prometheus_client.parser
from prometheus_client.metrics_core import Metric

from ultraflash.server import metrics
from ultraflash.server.metrics import Metrics

if TYPE_CHECKING:
    from live_server import LiveServer

PAGE = Path(metrics.__file__).with_name("METRICS.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def exposed(server: LiveServer) -> dict[str, Metric]:
    """Families by the name that queries use, but for the times at which they were made."""
    text = server.get("/metrics")[1]
    families = prometheus_client.parser.text_string_to_metric_families(text)
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in families
        if not family.name.endswith("_created")
    }


def documented() -> dict[str, tuple[str, str, str]]:
    return {name: (kind, labels.strip(), meaning) for name, kind, labels, meaning in ROW.findall(PAGE)}


def declared_labels() -> dict[str, str]:
    """Names of labels by family, as they are declared."""
    return {
        metric._name: ", ".join(f"`{label}`" for label in metric._labelnames)
        for metric in vars(Metrics()).values()
        if hasattr(metric, "_labelnames")
    }


def test_the_table_lists_every_metric_with_its_kind_labels_and_meaning(server: LiveServer) -> None:
    labels = declared_labels()
    families = exposed(server)
    told = {
        name: (family.type, labels[family.name], family.documentation) for name, family in families.items()
    }
    assert documented() == told


def test_the_buckets_are_those_that_the_page_says(server: LiveServer) -> None:
    said = re.search(r"upper bounds in seconds: ([\d., ]+) and infinity", PAGE)
    assert said is not None
    bounds = [float(bound) for bound in said[1].split(",")]
    histograms = [family for family in exposed(server).values() if family.type == "histogram"]
    assert len(histograms) >= 2
    for family in histograms:
        found = {float(one.labels["le"]) for one in family.samples if one.name.endswith("_bucket")}
        assert sorted(found) == [*bounds, float("inf")], family.name


async def test_a_stream_moves_them(start_server: Callable[..., LiveServer]) -> None:
    # Of its own: on a shared server, streams that other tests have left go on for as long as owners may come back.
    server = start_server()
    server.wait_until_ready()
    before = exposed(server)
    async with server.client() as client:
        await client.start()
        await client.until("stats")
        await client.send("prompt.update", event_id="other", prompt="a lake")
        applied = await client.until("prompt.applied")
        await client.until_pts(applied["first_pts_us"])
        await client.until("stats")
        await client.send("session.stop")
        await client.until("session.done")
    after = exposed(server)

    def grown(name: str, sample: str, **labels: str) -> float:
        values = [
            [one.value for one in families[name].samples if one.name == sample and one.labels == labels]
            for families in (before, after)
        ]
        return sum(values[1]) - sum(values[0])

    assert grown("ultraflash_frames_total", "ultraflash_frames_total") >= 21
    for name in ("ultraflash_first_frame_seconds", "ultraflash_prompt_to_frame_seconds"):
        assert grown(name, f"{name}_count") == 1
    for stage in ("base", "sr", "encode"):
        assert grown("ultraflash_stage_seconds_total", "ultraflash_stage_seconds_total", stage=stage) > 0
    ended = "ultraflash_sessions_ended_total"
    assert grown(ended, ended, reason="stopped") == 1


async def test_memory_of_a_gpu_is_there_as_long_as_its_worker(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(PATTERN_GPU="3/8")
    server.wait_until_ready()
    server.wait_for_metric('ultraflash_gpu_memory_used_bytes{gpu="cuda:0"} 3.0')
    server.wait_for_metric('ultraflash_gpu_memory_total_bytes{gpu="cuda:0"} 8.0')
    os.kill(server.worker_ids()[0], signal.SIGKILL)
    server.wait_for(lambda: "ultraflash_gpu_memory_used_bytes{" not in server.get("/metrics")[1], "absence")
    server.wait_for_metric('ultraflash_gpu_memory_used_bytes{gpu="cuda:0"} 3.0')


def test_without_a_gpu_nothing_is_said_of_one(server: LiveServer) -> None:
    families = exposed(server)
    for name in ("ultraflash_gpu_memory_used_bytes", "ultraflash_gpu_memory_total_bytes"):
        assert families[name].samples == []
