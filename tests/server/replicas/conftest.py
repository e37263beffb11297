"""A front with two replicas on the pattern engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from live_server import LiveServer

StartFront = Callable[..., LiveServer]


@pytest.fixture
def start_front(start_server: Any) -> StartFront:
    """Starts a front, and returns when all of its replicas are ready."""

    def start(*options: str, replicas: int = 2, **settings: object) -> LiveServer:
        server: LiveServer = start_server("--replicas", str(replicas), *options, **settings)
        server.wait_for_metric(f'ultraflash_replicas{{state="ready"}} {float(replicas)}')
        return server

    return start
