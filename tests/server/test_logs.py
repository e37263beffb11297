"""Log lines of both forms."""

from __future__ import annotations

import json
import logging
import sys

from ultraflash.server.keys.secret import new_secret
from ultraflash.server.logs import JsonLines, TextLines, fields, log_ids


def record(message: str, /, *args: object, **about: object) -> logging.LogRecord:
    made = logging.LogRecord("ultraflash.test", logging.WARNING, "file", 1, message, args, None)
    made.__dict__.update(fields(**about))
    return made


def test_a_json_line_has_what_every_line_has_and_its_fields() -> None:
    line = json.loads(JsonLines("worker").format(record("frame %d", 7, session="session_1", frames=3)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "process": "worker",
        "logger": "ultraflash.test",
        "message": "frame 7",
        "session": "session_1",
        "frames": 3,
    }


def test_lines_of_replicas_can_be_told_apart() -> None:
    line = json.loads(JsonLines("web", 3).format(record("said", replica="made up")))
    assert (line["process"], line["replica"]) == ("web", 3)
    assert TextLines("worker", 0).format(record("said")).endswith("WARNING worker/0 said")


def test_fields_do_not_replace_what_every_line_has() -> None:
    line = json.loads(JsonLines("web").format(record("said", level="made up", message="made up")))
    assert (line["level"], line["message"]) == ("warning", "said")


def test_the_ids_of_a_request_are_in_all_lines_meanwhile() -> None:
    with log_ids(request="r1", key=None):
        with log_ids(session="s1"):
            inner = TextLines("web").format(record("said", event="e1"))
        outer = TextLines("web").format(record("said"))
    assert inner.endswith("WARNING web said request=r1 session=s1 event=e1")
    assert outer.endswith("WARNING web said request=r1")
    assert TextLines("web").format(record("said")).endswith("WARNING web said")


def test_a_text_from_outside_cannot_look_like_a_line_of_its_own() -> None:
    evil = "x\n2026-01-01 00:00:00,000 INFO web all is well\r\n"
    assert "\n" not in TextLines("web").format(record("said %s", evil, event=evil))
    assert "\n" not in JsonLines("web").format(record("said %s", evil, event=evil))


def test_tracebacks_come_with_the_line() -> None:
    try:
        raise RuntimeError(f"with {new_secret()}")
    except RuntimeError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    line = json.loads(JsonLines("web").format(failed))
    assert "RuntimeError: with uf_" in line["traceback"]
    assert len(line["traceback"].split("uf_")[1]) < 10
    failed.exc_text = None
    assert "RuntimeError: with uf_…" in TextLines("web").format(failed)
