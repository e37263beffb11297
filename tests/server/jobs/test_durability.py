"""Kill -9 of the worker and of the server with jobs in flight: none is lost, none is torn, none comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import av
import pytest
from live_server import LiveServer
from videos_client import ask, download, make, numbers, pictures, shows, wait_for

FRAMES = 400


@pytest.fixture
def server(start_server: Any) -> LiveServer:
    running: LiveServer = start_server(PATTERN_SECONDS=0.05, jobs__checkpoint_s=0.2)
    running.wait_until_ready()
    return running


def files(server: LiveServer) -> Iterator[str]:
    """Names of the videos under their final names, each of which must be whole."""
    for path in (server.data / "videos").iterdir():
        with av.open(str(path)) as container:
            decoded = sum(1 for _ in container.decode(video=0))
            assert decoded == container.streams.video[0].frames
        yield path.stem


def in_the_middle(video: dict[str, Any]) -> bool:
    return video["status"] == "in_progress" and video["progress"] >= 30


def kill_worker(server: LiveServer) -> None:
    os.kill(server.worker_ids()[0], signal.SIGKILL)


def kill_server(server: LiveServer) -> None:
    server.stop(signal.SIGKILL)
    server.start()


@pytest.mark.parametrize("kill", [kill_worker, kill_server])
def test_jobs_survive_a_kill(server: LiveServer, kill: Any) -> None:
    done = make(server, num_frames=5)
    wait_for(server, done["id"])
    running = make(server, "a hill", num_frames=FRAMES)
    queued = make(server, "a lake", num_frames=20)
    cancelled = make(server, num_frames=20)
    ask(server, "POST", f"/v1/videos/{cancelled['id']}/cancel")
    wait_for(server, running["id"], in_the_middle)
    assert list(files(server)) == [done["id"]]
    kill(server)
    assert list(files(server)) == [done["id"]]
    again = make_once_ready(server)
    for video in (running, queued, again):
        assert wait_for(server, video["id"])["status"] == "completed"
    assert ask(server, "GET", f"/v1/videos/{cancelled['id']}").json["status"] == "cancelled"
    frames = pictures(download(server, running["id"]))
    assert numbers(frames) == list(range(FRAMES))
    assert all(shows(frame, "a hill") for frame in frames)
    assert set(files(server)) == {video["id"] for video in (done, running, queued, again)}
    events = ask(server, "GET", f"/v1/videos/{running['id']}/events").body.decode()
    assert events.count("event: restarted") == 1
    # It went on where it was, which the newest server's log says.
    assert f"job={running['id']}" in server.output().split("going on at frame ")[1].splitlines()[0]
    assert not list((server.data / "work").glob("*/*"))


def make_once_ready(server: LiveServer) -> dict[str, Any]:
    server.wait_until_ready()
    return make(server, num_frames=5)


def test_a_job_cancelled_just_before_a_kill_stays_cancelled(server: LiveServer) -> None:
    running = make(server, num_frames=FRAMES)
    wait_for(server, running["id"], in_the_middle)
    ask(server, "POST", f"/v1/videos/{running['id']}/cancel")
    kill_server(server)
    following = make_once_ready(server)
    assert wait_for(server, following["id"])["status"] == "completed"
    assert ask(server, "GET", f"/v1/videos/{running['id']}").json["status"] == "cancelled"
    assert list(files(server)) == [following["id"]]


def test_a_server_that_is_stopped_gives_its_job_back(server: LiveServer) -> None:
    running = make(server, num_frames=FRAMES)
    wait_for(server, running["id"], in_the_middle)
    server.stop()
    server.start()
    assert wait_for(server, running["id"])["status"] == "completed"
    assert "Traceback" not in server.output()


def test_a_job_that_kills_every_worker_is_given_up_and_the_next_one_made(server: LiveServer) -> None:
    deadly = make(server, "die")
    healthy = make(server, num_frames=5)
    failed = wait_for(server, deadly["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "engine_fault")
    assert "3 times" in failed["error"]["message"]
    assert wait_for(server, healthy["id"])["status"] == "completed"
