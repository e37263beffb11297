"""What follows for a session from what its workers say of its stream, where no worker says it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ultraflash.server.outbox import Close, Outbox
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.protocol import SessionStart
from ultraflash.server.services import Services
from ultraflash.server.settings import DataSettings, Settings
from ultraflash.server.worker.messages import CommandRefused, StreamOpened
from ultraflash.server.worker.supervisor import StreamOwner

PATIENCE_S = 30.0


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    data = DataSettings(folder=tmp_path / "data", snapshots=tmp_path / "snapshots")
    built = Services.build(Settings(data=data), on_worker_failed=None)
    yield built
    await asyncio.to_thread(built.server.archive.close)
    built.database.dispose()


def refusal(session_id: str) -> CommandRefused:
    return CommandRefused(
        stream_id=session_id,
        event_id=None,
        code="not_enough_memory",
        message="There is no room for this stream.",
        retryable=True,
    )


async def heard(outbox: Outbox) -> list[dict[str, Any]]:
    """All events up to the close."""
    events = []
    while not isinstance(item := await asyncio.wait_for(outbox.take(), PATIENCE_S), Close):
        events.append(json.loads(item))
    return events


async def test_a_session_that_the_next_worker_refuses_ends_and_its_recording_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = services.server
    streams: dict[str, StreamOwner] = {}
    monkeypatch.setattr(server.supervisor, "attach", streams.__setitem__)
    session = server.session(SessionStart(prompt="a hill", size="1K", record=True))
    outbox = Outbox(session.request_key)
    session.open(OwnerSeat(outbox, "webcodecs"))
    stream = streams[session.session_id]
    stream.on_report(
        StreamOpened(
            stream_id=session.session_id,
            codec="avc1.640028",
            size="1K",
            width=416,
            height=240,
            fps=16,
            first_index=0,
            restored=False,
        )
    )
    stream.on_worker_lost()
    stream.on_worker_ready()
    stream.on_report(refusal(session.session_id))
    events = await heard(outbox)
    kinds = ["session.started", "error", "error", "session.done"]
    assert [event["type"] for event in events] == kinds
    assert events[2]["code"] == "not_enough_memory"
    assert events[3]["reason"] == "engine_fault"
    await asyncio.to_thread(session.wait_for_recording)
    log = services.server.settings.data.recordings / session.session_id / "session.json"
    assert json.loads(log.read_text())["state"] == "engine_fault"


async def test_a_session_that_is_refused_at_once_leaves_no_recording(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = services.server
    streams: dict[str, StreamOwner] = {}
    monkeypatch.setattr(server.supervisor, "attach", streams.__setitem__)
    session = server.session(SessionStart(prompt="a hill", record=True))
    session.open(OwnerSeat(Outbox(session.request_key), "webcodecs"))
    streams[session.session_id].on_report(refusal(session.session_id))
    assert session.state == "refused"
    assert not (server.settings.data.recordings / session.session_id).exists()
