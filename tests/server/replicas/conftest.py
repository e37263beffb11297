"""A front with two replicas on the pattern engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_server import LiveServer
from replicas_client import sessions_by_replica

StartFront = Callable[..., LiveServer]


@pytest.fixture
def start_front(start_server: Any) -> StartFront:
    """Starts a front, and returns when all of its replicas are ready."""

    def start(*options: str, replicas: int = 2, **settings: object) -> LiveServer:
        server: LiveServer = start_server("--replicas", str(replicas), *options, **settings)
        server.wait_for_metric(f'ultraflash_replicas{{state="ready"}} {float(replicas)}')
        return server

    return start


@pytest.fixture(scope="module")
def front_of_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A front with two replicas that tests share which leave it as it was."""
    with LiveServer(tmp_path_factory.mktemp("front"), "--replicas", "2") as running:
        running.wait_for_metric('ultraflash_replicas{state="ready"} 2.0')
        yield running


@pytest.fixture
def front(front_of_many: LiveServer) -> LiveServer:
    """That front, when nobody is there any more whom the test before has let in."""
    front_of_many.wait_for(lambda: not any(sessions_by_replica(front_of_many).values()), "sessions to end")
    return front_of_many
