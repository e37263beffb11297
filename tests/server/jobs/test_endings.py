"""Each end of a video is counted, and once, whoever brings it about."""

from __future__ import annotations

from typing import Any

from videos_client import ask, wait_for


def counts(server: Any) -> dict[str, float]:
    """``ultraflash_jobs_ended_total`` by status."""
    found = {}
    for line in server.get("/metrics")[1].splitlines():
        if line.startswith("ultraflash_jobs_ended_total{"):
            labels, value = line.rsplit(" ", 1)
            found[labels.split('"')[1]] = float(value)
    return found


def order(server: Any, prompt: str, **fields: Any) -> str:
    answer = ask(server, "POST", "/v1/videos", {"prompt": prompt, "num_frames": 20, **fields})
    assert answer.status == 200, answer.json
    return str(answer.json["id"])


def test_every_end_of_a_video_is_counted_once(start_server: Any) -> None:
    server = start_server(jobs__max_attempts=1)
    server.wait_until_ready()
    assert wait_for(server, order(server, "a hill"))["status"] == "completed"
    assert counts(server) == {"completed": 1}
    assert wait_for(server, order(server, "fault"))["status"] == "failed"
    assert counts(server) == {"completed": 1, "failed": 1}
    # The worker dies of this one, so that nobody reports its end.
    assert wait_for(server, order(server, "die"))["status"] == "failed"
    assert counts(server) == {"completed": 1, "failed": 2}
    server.wait_until_ready()
    running, queued = order(server, "slow", num_frames=200), order(server, "a lake")
    wait_for(server, running, lambda video: video["status"] == "in_progress")
    for _ in range(2):
        assert ask(server, "POST", f"/v1/videos/{running}/cancel").status == 200
    assert counts(server)["cancelled"] == 1
    running = order(server, "slow", num_frames=200)
    wait_for(server, running, lambda video: video["status"] == "in_progress")
    assert ask(server, "DELETE", f"/v1/videos/{running}").status == 200
    assert ask(server, "DELETE", f"/v1/videos/{running}").status == 404
    assert wait_for(server, queued)["status"] == "completed"
    assert ask(server, "DELETE", f"/v1/videos/{queued}").status == 200
    assert counts(server) == {"completed": 2, "failed": 2, "cancelled": 2}
