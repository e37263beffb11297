"""Each state of the page: said in words, read out, and open to everybody, dark and light."""

from __future__ import annotations

import json
import os
import signal

import pytest

SCENE = "a lake at dawn"
STARTED = {
    "session_id": "session_0",
    "codec": "avc1.64001f",
    "container": "fmp4",
    "width": 224,
    "height": 128,
    "fps": 16,
    "seed": 1,
    "model": "pattern",
}


class Script:
    """Stands in for the server's end of the stream, so that a test decides what is said when."""

    def __init__(self, viewer):
        self._viewer = viewer
        self._socket = None
        # Only the player on the page has a socket that can be taken over; that of the other is a worker's.
        viewer.page.route_web_socket("**/v1/stream", self._take)

    def _take(self, socket):
        # Without a handler the browser's words would go on to the real server.
        socket.on_message(lambda _: None)
        self._socket = socket

    def begin(self):
        """Press Play, and wait until the page has connected."""
        self._socket = None
        self._viewer.press("Play")
        while self._socket is None:
            self._viewer.page.wait_for_timeout(20)

    def say(self, kind, **fields):
        self._socket.send(json.dumps({"type": kind, **fields}))

    def close(self, code, reason):
        self._socket.close(code=code, reason=reason)


@pytest.fixture
def scripted(server, visit):
    viewer = visit(f"{server.url}/?player=mse")
    script = Script(viewer)
    viewer.page.reload()
    return viewer, script


def test_place_in_the_queue_is_told_and_can_be_given_up(scripted):
    viewer, script = scripted
    script.begin()
    script.say("queue.status", position=2, depth=3, eta_s=41.2)
    viewer.page.get_by_text("Place 2 of 3 in the queue").wait_for()
    viewer.page.get_by_text("Your turn comes in about 41 s.").wait_for()
    viewer.wait_until_told("Place 2 of 3 in the queue")
    viewer.shoot("queued")
    viewer.enter("another prompt")
    viewer.page.get_by_role("alert").get_by_text("It can be steered as soon as it plays.").wait_for()
    script.say("queue.status", position=1, depth=3, eta_s=20)
    viewer.page.get_by_text("Place 1 of 3 in the queue").wait_for()
    viewer.press("Stop")
    viewer.wait_for_state("ended")


def test_busy_server_is_waited_for(scripted):
    viewer, script = scripted
    script.begin()
    script.say("error", code="busy", message="All places are taken.", retryable=True)
    script.close(1013, "Retry-After: 60")
    viewer.wait_for_state("busy")
    viewer.page.get_by_text("Trying again in").wait_for()
    viewer.wait_until_told("All places are taken.")
    viewer.shoot("busy")
    viewer.press("Stop")


def test_refused_connection_ends_in_an_error_that_says_why(scripted):
    viewer, script = scripted
    script.begin()
    script.close(1008, "origin not allowed")
    viewer.wait_for_state("error")
    viewer.page.get_by_text("origin not allowed").wait_for()
    viewer.wait_until_told("This did not work. origin not allowed")
    viewer.shoot("error")


def test_change_of_quality_is_shown_and_read_out(scripted):
    viewer, script = scripted
    script.begin()
    script.say("quality.changed", size="0.5K", reason="overload")
    viewer.page.locator("#marker", has_text="Size 0.5K: the machine is busy").wait_for()
    viewer.wait_until_told("Size 0.5K: the machine is busy")


def test_first_frames_are_waited_for_in_words(scripted):
    viewer, script = scripted
    script.begin()
    viewer.page.get_by_text("Connecting").first.wait_for()
    script.say("session.started", **STARTED)
    viewer.page.get_by_text("Making the first frames").wait_for()
    viewer.shoot("connecting")


def test_recording_that_never_comes_is_not_waited_for_for_ever(scripted):
    viewer, script = scripted
    viewer.page.clock.install()
    viewer.page.reload()
    viewer.press("Record")
    script.begin()
    script.say("session.started", **STARTED)
    viewer.page.get_by_text("Making the first frames").wait_for()
    viewer.press("Stop")
    viewer.page.get_by_text("The recording is being finished").wait_for()
    viewer.page.clock.fast_forward(33_000)
    viewer.page.get_by_text("The recording cannot be had").wait_for()


@pytest.mark.parametrize("player", ["webcodecs", "mse"])
def test_replaced_engine_is_announced_and_the_picture_goes_on(server, visit, player):
    viewer = visit(f"{server.url}/?player={player}")
    viewer.play(SCENE)
    (worker,) = server.worker_ids()
    os.kill(worker, signal.SIGKILL)
    viewer.wait_until_told("The engine was restarted")
    viewer.wait_for_frames(8)
    viewer.wait_for_state("playing")
    server.wait_until_ready()


@pytest.mark.parametrize("player", ["webcodecs", "mse"])
def test_engine_that_fails_ends_the_session_in_words(server, visit, player):
    viewer = visit(f"{server.url}/?player={player}")
    viewer.play(SCENE)
    viewer.enter("fault")
    viewer.wait_until_told("The end. The engine failed.")
    assert viewer.page.get_by_role("button", name="Play again").is_visible()
    # Nothing was lost that would have to be looked for again.
    viewer.page.wait_for_timeout(700)
    assert viewer.state == "ended"


def test_session_that_ends_before_its_first_frame_is_over(scripted):
    viewer, script = scripted
    script.begin()
    script.say("session.started", **STARTED)
    script.say("session.done", reason="paused_too_long", frames=0)
    viewer.wait_for_state("ended")


def test_pages_that_nobody_may_miss_are_audited_for_real(server, visit):
    viewer = visit(server.url)
    assert viewer.audit() == []
    viewer.page.evaluate("document.querySelector('#stop').before(document.createElement('button'))")
    assert any("button-name" in found for found in viewer.audit())
