"""The link with which others watch a session, and the page that it opens."""

from __future__ import annotations

import pytest
from relay import relay_to

SCENE = "a forest at noon"


def link_of(viewer):
    """The link that the page offers, as its user copies it."""
    viewer.press("Let others watch")
    link = viewer.page.get_by_label("Link to watch").input_value()
    viewer.press("Copy the link")
    viewer.page.locator("#share-said:not(:empty)").wait_for()
    return link


def test_dialog_with_the_link_opens_and_closes_by_keyboard(server, visit):
    viewer = visit(server.url)
    assert viewer.page.get_by_role("button", name="Let others watch").is_disabled()
    viewer.play(SCENE)
    link = link_of(viewer)
    assert link.startswith(f"{server.url}/#watch=session_")
    viewer.shoot("share")
    viewer.page.keyboard.press("Escape")
    assert not viewer.page.get_by_role("dialog").is_visible()
    assert viewer.page.evaluate("document.activeElement.id") == "share"


@pytest.mark.parametrize("player", ["webcodecs", "mse"])
def test_viewer_watches_pauses_and_cannot_steer(server, visit, player):
    owner = visit(server.url)
    owner.play(SCENE)
    link = link_of(owner)
    requests = []
    viewer = visit("about:blank")
    viewer.page.on("request", lambda request: requests.append(request.url))
    viewer.page.goto(link.replace("/#", f"/?player={player}#"))
    viewer.wait_for_frames(8)
    assert viewer.page.evaluate("ultraflash.player") == player
    assert not viewer.page.get_by_label("Prompt").is_visible()
    assert not viewer.page.get_by_role("button", name="Let others watch").is_visible()
    assert not any("token" in url for url in requests)
    viewer.press("Pause")
    viewer.wait_for_state("paused")
    held = viewer.frames
    viewer.page.wait_for_timeout(500)
    assert viewer.frames == held
    viewer.press("Go on")
    viewer.wait_for("ultraflash.state === 'playing' && ultraflash.framesShown > 4")
    viewer.shoot(f"watching-{player}")
    owner.page.keyboard.press("Escape")
    owner.press("Stop")
    viewer.page.get_by_text("The stream is over").wait_for()
    viewer.wait_until_told("The stream is over")
    viewer.shoot(f"watched-to-the-end-{player}")
    viewer.page.get_by_role("link", name="Make your own").click()
    viewer.page.get_by_label("Prompt").wait_for()


@pytest.mark.parametrize("player", ["webcodecs", "mse"])
def test_viewer_whose_connection_is_lost_joins_again(server, visit, player):
    owner = visit(server.url)
    owner.play(SCENE)
    link = link_of(owner)
    with relay_to(server.port) as relay:
        far_link = link.replace(f":{server.port}/", f":{relay.port}/?player={player}")
        viewer = visit(far_link)
        viewer.wait_for_frames(4)
        relay.cut()
        viewer.wait_for_state("connection_lost")
        viewer.wait_for("ultraflash.state === 'playing'")
        viewer.wait_for_frames(8)


@pytest.mark.parametrize("fault", ["token", "session"])
def test_link_that_opens_nothing_says_so(server, visit, fault):
    owner = visit(server.url)
    owner.play(SCENE)
    link = link_of(owner)
    viewer = visit(f"{link}x" if fault == "token" else link.replace("session_", "session_0"))
    viewer.page.get_by_text("This stream is over, or the link to it is no longer good.").wait_for()
    viewer.wait_for_state("error")
