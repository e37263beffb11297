"""Logs are found where they are kept, and given to those who have a token of that place."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ultraflash.server.access import Grant
from ultraflash.server.errors import BadToken, InvalidField, UnknownSession
from ultraflash.server.session_logs import RecordedLogs, SessionLogs

ID = "session_0123"
EVENT = {"first_pts_us": 0.0, "group": 0, "prompt": "a hill", "size": "0.5K"}


def recorded(root: Path, **fields: Any) -> str:
    """Writes the log of a recording of 33 frames; returns its token."""
    token, grant = Grant.issue(600)
    (root / ID).mkdir()
    document = {
        "version": 1,
        "id": ID,
        "state": "stopped",
        "model": "pattern",
        "seed": 9,
        "fps": 16,
        "events": [EVENT],
        "parts": [{"frames": 20}, {"frames": 13}],
        "token": asdict(grant),
        **fields,
    }
    (root / ID / "session.json").write_text(json.dumps(document))
    return token


def test_a_log_beside_a_recording_opens_with_the_recording_s_token(tmp_path: Path) -> None:
    token = recorded(tmp_path, frames=34)
    logs = SessionLogs(RecordedLogs(tmp_path / "nowhere"), RecordedLogs(tmp_path))
    log = logs.find(ID, token, None)
    assert (log.seed, log.frames, log.events[0].prompt) == (9, 34, "a hill")
    for wrong in (None, "", "x"):
        with pytest.raises(BadToken):
            logs.find(ID, wrong, None)
    with pytest.raises(UnknownSession):
        logs.find("session_4567", token, None)
    with pytest.raises(UnknownSession):
        logs.find("../session_0123", token, None)


def test_an_older_log_has_the_frames_of_its_parts(tmp_path: Path) -> None:
    assert SessionLogs(RecordedLogs(tmp_path)).find(ID, recorded(tmp_path), None).frames == 33


def test_a_log_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    token = recorded(tmp_path, events=[EVENT] * 1001)
    with pytest.raises(InvalidField, match="1000 items"):
        SessionLogs(RecordedLogs(tmp_path)).find(ID, token, None)
