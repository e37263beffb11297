"""A real local Ray: two replicas behind its proxy, streams at both, and a video."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from live_server import PATIENCE_S, PATTERN, StreamClient
from websockets.asyncio.client import connect

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

RIG = Path(__file__).resolve().parents[1] / "rig"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``host:port`` of an application with two replicas."""
    from ultraflash.server.replicas.ray_deployment import build

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # On a busy machine Ray gives its proxy up before it has started, and starts another one, again and again.
    for patience in ("READY", "HEALTH"):
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{patience}_CHECK_TIMEOUT_S", str(PATIENCE_S))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(RIG), os.environ.get("PYTHONPATH", "")]))
    options = {
        "engine": PATTERN,
        "size": "0.5K",
        "stream.capacity": "1000",
        "data.folder": str(tmp_path / "data"),
        "data.database": f"sqlite:///{tmp_path / 'jobs.db'}",
        "data.snapshots": str(tmp_path / "snapshots"),
        "replicas.count": "2",
        "http.allow_unauthenticated": "true",
    }
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        start_serve()
        serve.run(build(options), route_prefix="/")
        yield "127.0.0.1:8765"
    finally:
        serve.shutdown()
        ray.shutdown()


def start_serve() -> None:
    """Starts Ray's proxy, which Ray waits a minute for; asked again it goes on with what it has begun."""
    options = {"host": "127.0.0.1", "port": 8765}
    with contextlib.suppress(TimeoutError):
        serve.start(http_options=options)
    serve.start(http_options=options)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 3 * PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


async def test_streams_and_videos_are_shared_out_by_the_front_in_ray(address: str) -> None:
    http = httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S)

    def ready() -> list[Any]:
        return [one for one in http.get("/readyz").json().get("replicas", []) if one["ready"]]

    wait_for(lambda: len(ready()) == 2, "two replicas")
    url = f"ws://{address}/v1/stream"
    async with connect(url, max_size=None) as one, connect(url, max_size=None) as two:
        first, second = StreamClient(one), StreamClient(two)
        started = await first.start("a red hill")
        await first.until_frame(30)
        await second.start("a blue hill")
        await second.until_frame(30)
        assert sorted(one["sessions"] for one in ready()) == [1, 1]
        watched = f"{url}/{started['session_id']}?token={started['viewer_token']}"
        async with connect(watched, max_size=None) as three:
            viewer = StreamClient(three)
            viewer.acknowledge = False
            await viewer.until("session.started")
            await first.until_frame(first.frames()[-1][0].seq + 30)
            await viewer.until_frame(first.frames()[-1][0].seq - 5)
    video = http.post("/v1/videos", json={"prompt": "a hill", "num_frames": 33}).json()

    def over() -> bool:
        return bool(http.get(f"/v1/videos/{video['id']}").json()["status"] == "completed")

    wait_for(over, "the video")
    assert http.get(f"/v1/videos/{video['id']}/content").headers["content-type"] == "video/mp4"
    assert 'ultraflash_ready{replica="1"} 1.0' in http.get("/metrics").text


@pytest.mark.parametrize(
    ("eta_s", "busy", "wanted"),
    [((0.0, 40.0), (1.0, 1.0), 3), ((0.0, 5.0), (0.0, 1.0), 2), ((0.0,), (0.0, 0.0), 1)],
)
def test_the_policy_goes_by_the_queue(eta_s: tuple[float, ...], busy: tuple[float, ...], wanted: int) -> None:
    from ultraflash.server.replicas.ray_deployment import queue_policy

    def of_replicas(values: tuple[float, ...]) -> dict[str, float]:
        return {f"replica {number}": value for number, value in enumerate(values)}

    measured = {
        "queue_eta_s": of_replicas(eta_s),
        "busy": of_replicas(busy),
        "scale_up_eta_s": of_replicas((10.0,)),
    }
    context = SimpleNamespace(aggregated_metrics=measured, target_num_replicas=2, current_num_replicas=2)
    assert queue_policy(context) == (wanted, {})
