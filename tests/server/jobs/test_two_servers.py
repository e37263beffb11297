"""Two servers on one database: every job is made once, and those of a server that is gone are made by the other."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from videos_client import ask, download, make, numbers, pictures, wait_for

LEASE_S = 3

StartPair = Callable[..., tuple[LiveServer, LiveServer]]


@pytest.fixture
def start_pair(start_server: Any, database_url: str, tmp_path: Path) -> StartPair:
    """Starts two servers with a folder each, as on two machines, that share a database and the place of videos."""

    def start(**settings: object) -> tuple[LiveServer, LiveServer]:
        first, second = (
            start_server(
                data__folder=tmp_path / name,
                data__database=database_url,
                data__artifacts=tmp_path / "videos",
                jobs__lease_s=LEASE_S,
                jobs__checkpoint_s=0.2,
                **settings,
            )
            for name in ("first", "second")
        )
        for server in (first, second):
            server.wait_until_ready()
        return first, second

    return start


def completed(server: LiveServer) -> int:
    found = re.search(
        r'ultraflash_jobs_ended_total{status="completed"} (\d+)', str(server.get("/metrics")[1])
    )
    return int(found[1]) if found else 0


def events(server: LiveServer, video_id: str) -> Counter[str]:
    """How often each kind of event is in the log of a video that is over."""
    log = ask(server, "GET", f"/v1/videos/{video_id}/events").body.decode()
    return Counter(re.findall(r"event: (\w+)", log))


@contextmanager
def frozen(server: LiveServer) -> Iterator[None]:
    """Stops a server and its worker without ending them, as a machine does that hangs."""
    processes = [server.process.pid, *server.worker_ids()]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(processes):
            os.kill(process, signal.SIGCONT)


def runner(pair: tuple[LiveServer, LiveServer]) -> tuple[LiveServer, LiveServer]:
    """The server that works on the only job, and the other one."""
    owner = next(server for server in pair if "job_frames_total 0.0" not in str(server.get("/metrics")[1]))
    return owner, next(server for server in pair if server is not owner)


def test_two_servers_share_the_queue_and_make_no_video_twice(start_pair: StartPair) -> None:
    pair = start_pair(PATTERN_SECONDS=0.05)
    made = [make(pair[number % 2], num_frames=33) for number in range(12)]
    for video in made:
        assert wait_for(pair[0], video["id"])["status"] == "completed"
        assert events(pair[1], video["id"])["in_progress"] == 1
        assert numbers(pictures(download(pair[1], video["id"]))) == list(range(33))
    counts = [completed(server) for server in pair]
    assert sum(counts) == 12
    assert min(counts) > 0, counts


def test_a_killed_server_loses_no_job(start_pair: StartPair) -> None:
    first, second = start_pair(PATTERN_SECONDS=0.05)
    made = [make(first, num_frames=129) for _ in range(6)]
    first.wait_for(lambda: "job_frames_total 0.0" not in str(first.get("/metrics")[1]), "frames of a job")
    first.stop(signal.SIGKILL)
    for video in made:
        assert wait_for(second, video["id"])["status"] == "completed"
        assert numbers(pictures(download(second, video["id"]))) == list(range(129))
    log = [events(second, video["id"]) for video in made]
    assert [kinds["completed"] for kinds in log] == [1] * 6
    assert sum(kinds["restarted"] for kinds in log) == 1
    assert "taken over from servers that are gone" in second.output()


def test_a_server_that_hangs_past_its_lease_gives_its_job_to_the_other_and_keeps_out_of_it(
    start_pair: StartPair, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a process that hangs while it writes keeps all others from an SQLite file")
    pair = start_pair(PATTERN_SECONDS=0.1)
    video = make(pair[0], num_frames=129)
    wait_for(pair[0], video["id"], lambda seen: seen["progress"] >= 10)
    owner, other = runner(pair)
    with frozen(owner):
        assert wait_for(other, video["id"])["status"] == "completed"
    owner.wait_for(lambda: owner.get("/healthz")[0] == 200, "an answer")
    following = make(owner, num_frames=9)
    assert wait_for(owner, following["id"])["status"] == "completed"
    log = events(other, video["id"])
    assert (log["in_progress"], log["restarted"], log["completed"]) == (2, 1, 1)
    assert completed(owner) + completed(other) == 2
    assert numbers(pictures(download(other, video["id"]))) == list(range(129))
