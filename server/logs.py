"""Logs of both processes: text for people or JSON lines for machines, with the ids that let one thing be followed.

A line carries the ids of what it is about (``session``, ``job``, ``event``, ``key``) as fields, not in its words. Those
that hold for a whole request are set once with ``log_ids``. Neither form shows an API key or a token.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Literal

from ultraflash.server.keys.secret import hide_secrets

LogFormat = Literal["text", "json"]

_FIELDS = "fields"
_ids: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))
# They tell addresses with their tokens, and what is sent and received, when they are asked to be that talkative.
_QUIET = {
    "uvicorn": logging.WARNING,
    "websockets": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.INFO,
}


def fields(**values: object) -> dict[str, Any]:
    """``extra`` of a log call: what the line is about."""
    return {_FIELDS: values}


@contextlib.contextmanager
def log_ids(**ids: str | None) -> Iterator[None]:
    """Every line of this task carries these ids meanwhile; None is no id."""
    given = {name: value for name, value in ids.items() if value is not None}
    token = _ids.set({**_ids.get(), **given})
    try:
        yield
    finally:
        _ids.reset(token)


def set_up_logging(process: str, *, level: str, form: LogFormat, replica: int | None = None) -> None:
    """Makes everything that this process logs, its libraries included, go to stderr in one form.

    Args:
        process: ``web``, ``worker`` or ``front``.
        level: of our own loggers; talkative libraries stay quieter.
        form: of the lines.
        replica: number of the server among several, which lines then carry.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process, replica) if form == "json" else TextLines(process, replica))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, quietest in _QUIET.items():
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(max(quietest, root.level))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, process, replica if there are several, logger, message, then fields.

    Where there is a traceback it comes last.
    """

    def __init__(self, process: str, replica: int | None = None) -> None:
        super().__init__()
        self._origin: dict[str, Any] = {"process": process}
        if replica is not None:
            self._origin["replica"] = replica

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            **self._origin,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # Fields never take the place of what every line has.
        line |= {name: value for name, value in _fields_of(record).items() if name not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return hide_secrets(json.dumps(line, default=str, ensure_ascii=True))


class TextLines(logging.Formatter):
    """Time, level, process (``web/1`` of replica 1) and message, then fields as ``name=value``."""

    def __init__(self, process: str, replica: int | None = None) -> None:
        origin = process if replica is None else f"{process}/{replica}"
        super().__init__(f"%(asctime)s %(levelname)s {origin} %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback below it where there is one."""
        return hide_secrets(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Everything but the traceback."""
        values = [f"{name}={value}" for name, value in _fields_of(record).items()]
        # A text that came from outside must not look like a line of its own.
        text = " ".join([super().formatMessage(record), *values])
        return text.replace("\r", "\\r").replace("\n", "\\n")


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {**_ids.get(), **record.__dict__.get(_FIELDS, {})}
