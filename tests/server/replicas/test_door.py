"""What a replica says of itself to those who know the secret."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from ultraflash.server.protocol import SessionStart
from ultraflash.server.replicas.door import ReplicaDoor
from ultraflash.server.replicas.state import SECRET_HEADER, STATE_PATH, TAKE_OVER_PATH, ReplicaState
from ultraflash.server.services import Services
from ultraflash.server.settings import DataSettings, Settings
from ultraflash.server.worker.messages import WorkerReady

SECRET = "a secret that is long enough"
TROUBLE = "API keys cannot be looked up"


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    """Those of a replica whose worker is ready, as far as the supervisor knows."""
    data = DataSettings(folder=tmp_path / "data", snapshots=tmp_path / "snapshots")
    built = Services.build(Settings(data=data), on_worker_failed=None)
    built.server.supervisor.status.state = "ready"
    built.server.supervisor.status.stage = "ready"
    yield built
    await asyncio.to_thread(built.server.archive.close)
    built.database.dispose()


async def life_without_end(scope: Any, receive: Any, send: Any) -> None:
    """An app whose life goes on until it is cancelled."""
    if scope["type"] == "lifespan":
        await asyncio.Event().wait()
    await Response(status_code=404)(scope, receive, send)


async def state_of(door: ReplicaDoor) -> ReplicaState:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://replica") as http:
        answer = await http.get(STATE_PATH, headers={SECRET_HEADER: SECRET})
    return ReplicaState.model_validate_json(answer.content)


async def test_a_replica_that_cannot_look_up_keys_is_not_ready(services: Services) -> None:
    door = ReplicaDoor(life_without_end, services=services, secret=SECRET)
    known = await state_of(door)
    assert (known.ready, known.stage) == (True, "ready")

    async def fail() -> None:
        raise OSError("away")

    failing = asyncio.create_task(services.background.repeat("keys", fail, every_s=60, trouble=TROUBLE))
    await asyncio.sleep(0.05)
    known = await state_of(door)
    assert (known.ready, known.stage) == (False, TROUBLE)
    services.server.supervisor.status.state = "restarting"
    services.server.supervisor.status.stage = "loading weights"
    assert (await state_of(door)).stage == "loading weights"
    failing.cancel()


async def test_a_slow_database_does_not_keep_the_door_from_answering(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly() -> tuple[int, float]:
        time.sleep(1.0)
        return 3, 1000.0

    monkeypatch.setattr(services.jobs.store, "work_before", slowly)
    door = ReplicaDoor(life_without_end, services=services, secret=SECRET)
    living = asyncio.create_task(door({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    began = time.monotonic()
    assert (await state_of(door)).queued == 0
    assert time.monotonic() - began < 0.5
    await asyncio.sleep(1.5)
    assert (await state_of(door)).queued == 3
    living.cancel()


async def test_sessions_are_taken_over_while_the_door_goes_on_answering(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.server.snapshots.open()
    over: list[bool] = []

    def slowly(silent_s: float) -> list[Any]:
        time.sleep(1.0)
        over.append(True)
        return []

    monkeypatch.setattr(services.server.archive.store, "take_over", slowly)
    door = ReplicaDoor(life_without_end, services=services, secret=SECRET)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://replica") as http:
        taking = asyncio.create_task(http.post(TAKE_OVER_PATH, headers={SECRET_HEADER: SECRET}))
        await asyncio.sleep(0.1)
        assert (await state_of(door)).ready
        assert not over
        assert (await taking).status_code == 204
    assert over


async def test_a_session_that_came_and_went_has_been_counted(services: Services) -> None:
    door = ReplicaDoor(life_without_end, services=services, secret=SECRET)
    server = services.server
    session = server.session(SessionStart(type="session.start", prompt="a hill"))
    server.sessions.add(session)
    server.sessions.forget(session)
    known = await state_of(door)
    assert (known.begun, known.idle) == (1, True)


async def test_sessions_of_a_lost_replica_are_known_before_the_first_worker_is_ready(
    services: Services,
) -> None:
    server = services.server
    server.supervisor.status.state = "starting"
    session = server.session(SessionStart(type="session.start", prompt="a hill"))
    server.sessions.await_owner(session)
    known = await state_of(ReplicaDoor(life_without_end, services=services, secret=SECRET))
    assert (known.ready, known.sessions, known.eta_s) == (False, (session.session_id,), None)
    server.sessions.forget(session)


async def test_a_session_of_a_size_that_is_not_made_here_keeps_nobody_out(services: Services) -> None:
    server = services.server
    server.supervisor.ready = WorkerReady(
        model="small",
        fps=16,
        sizes=[["0.5K", 224, 128]],
        default_size="0.5K",
        max_prompt_chars=100,
        frame_seconds={"0.5K": 0.01},
    )
    session = server.session(SessionStart(type="session.start", prompt="a hill", size="2K"))
    server.sessions.await_owner(session)
    known = await state_of(ReplicaDoor(life_without_end, services=services, secret=SECRET))
    assert (known.ready, known.sessions, known.eta_s) == (True, (session.session_id,), 0.0)
    server.sessions.forget(session)
