"""What the front says of itself, where its replicas are away."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.front import Front
from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.state import ReplicaState
from ultraflash.server.settings import Settings


def front(*states: ReplicaState, resting: Mapping[int, float], next_try_s: float | None) -> TestClient:
    """One whose replicas answer the front, and nobody else."""
    replicas = [Replica(number=number, address=f"127.0.0.1:{number}") for number in range(1, len(states) + 1)]

    def answer(request: httpx.Request) -> httpx.Response:
        port = request.url.port
        assert port is not None
        if request.url.path == "/metrics":
            return httpx.Response(200, text="")
        if not request.url.path.startswith("/replica/"):
            raise httpx.ConnectError("gone")
        return httpx.Response(200, json=states[port - 1].model_dump(mode="json"))

    directory = Directory(
        lambda: replicas,
        secret="a secret that is long enough",
        complete=lambda: True,
        next_try_s=lambda: next_try_s,
        retry_after_s=5,
        http=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )
    app = Front(
        Settings(),
        directory,
        restarts=lambda: 5,
        missing=lambda: 0,
        resting=lambda: resting,
        closing=lambda: False,
    ).app()
    return TestClient(app, base_url="http://127.0.0.1")


def test_a_replica_that_rests_is_seen_in_readiness_and_metrics() -> None:
    client = front(ReplicaState(ready=True, stage="ready"), resting={0: 42.3}, next_try_s=42.3)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    resting = {"number": 0, "ready": False, "stage": "failed too often; tried again in 43 s", "sessions": 0}
    assert resting in answer.json()["replicas"]
    page = client.get("/metrics").text
    assert 'ultraflash_replicas{state="resting"} 1.0' in page
    assert 'ultraflash_replicas{state="missing"} 0.0' in page


def test_who_finds_no_replica_is_told_when_the_next_one_starts() -> None:
    client = front(resting={0: 89.5}, next_try_s=89.5)
    for path in ("/readyz", "/v1/models"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "90"), path
    with client.websocket_connect("ws://127.0.0.1/v1/stream") as socket:
        assert socket.receive_json()["code"] == "not_ready"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (1013, "Retry-After: 90")
