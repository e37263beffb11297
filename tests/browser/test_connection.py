"""The page when the server is slow to start, gone, or back again."""

from __future__ import annotations

import pytest
from relay import relay_to


def test_page_comes_back_when_the_server_does(own_server, visit, console_errors):
    own_server.launch()
    own_server.wait_until_ready()
    viewer = visit(own_server.url)
    viewer.play("the sea at dusk")
    own_server.stop()
    viewer.wait_for_state("connection_lost")
    viewer.page.get_by_role("button", name="Retry now").wait_for()
    viewer.shoot("connection-lost")
    own_server.launch()
    viewer.wait_for("ultraflash.state === 'playing' && ultraflash.framesShown > 4")
    assert viewer.page.get_by_label("Prompt").input_value() == "the sea at dusk"
    # The browser itself logs each attempt that finds nobody.
    console_errors[:] = [text for text in console_errors if "net::ERR" not in text and "503" not in text]


def sessions_by_id(viewer, server):
    listed = viewer.page.request.get(f"{server.url}/v1/sessions").json()["data"]
    return {session["id"]: session for session in listed}


@pytest.mark.parametrize("player", ["webcodecs", "mse"])
def test_lost_connection_goes_on_in_the_same_session(server, visit, player):
    with relay_to(server.port) as relay:
        viewer = visit(f"http://127.0.0.1:{relay.port}/?player={player}")
        # Sessions of earlier visits may still wait for their owners.
        earlier = sessions_by_id(viewer, server).keys()
        viewer.play("the sea at dusk")
        ((name, session),) = [
            item for item in sessions_by_id(viewer, server).items() if item[0] not in earlier
        ]
        shown = viewer.frames
        relay.cut()
        viewer.wait_for_state("connection_lost")
        viewer.wait_for("ultraflash.state === 'playing'")
        viewer.wait_until_told("Connected again")
        viewer.wait_for_frames(20)
        now = sessions_by_id(viewer, server)
        assert now.keys() - earlier == {name}
        after = now[name]
        assert after["seconds"] > session["seconds"]
        # Nothing was lost on the way: as many frames were shown as the newest one's number says.
        last = round(viewer.page.evaluate("ultraflash.lastPtsUs") * session["fps"] / 1e6)
        assert viewer.frames > shown
        assert viewer.frames + viewer.stats["dropped"] >= last


def test_server_that_is_warming_up_is_waited_for(server, visit, console_errors):
    viewer = visit(server.url)
    loading = {"ready": False, "stage": "loading weights", "progress": 0.4}
    ready = False

    def answer(route):
        if ready:
            route.fulfill(json={"ready": True})
        else:
            route.fulfill(status=503, json=loading)

    viewer.page.route("**/readyz", answer)
    viewer.page.get_by_role("button", name="Play").click()
    viewer.wait_for_state("warming_up")
    viewer.page.get_by_text("loading weights").wait_for()
    assert float(viewer.page.get_by_role("progressbar").get_attribute("value")) == 0.4
    viewer.shoot("warming-up")
    ready = True
    viewer.wait_for_state("playing")
    console_errors[:] = [text for text in console_errors if "503" not in text]


def test_busy_server_is_asked_again_when_it_said(server, visit):
    viewer = visit(f"{server.url}/?player=mse")
    busy = True

    def answer(socket):
        if busy:
            socket.on_message(lambda _: socket.close(code=1013, reason="Retry-After: 2"))
        else:
            socket.connect_to_server()

    viewer.page.route_web_socket("**/v1/stream", answer)
    viewer.page.reload()
    viewer.page.get_by_role("button", name="Play").click()
    viewer.wait_for_state("busy")
    viewer.page.get_by_text("Trying again in").wait_for()
    busy = False
    viewer.wait_for_state("playing")
