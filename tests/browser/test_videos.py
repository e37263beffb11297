"""Videos made in the background, and the list of them."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import av
import pytest

PROMPT = "a desert at day"


@pytest.fixture
def viewer(server, visit):
    """A page, and a server without videos of earlier tests."""
    # Before there is a page: its players would ask for what is not there any more.
    with urlopen(f"{server.url}/v1/videos?limit=100") as answer:
        listed = json.load(answer)["data"]
    for video in listed:
        urlopen(Request(f"{server.url}/v1/videos/{video['id']}", method="DELETE")).close()
    return visit(server.url)


def order(viewer, *, prompt=PROMPT, seconds="2"):
    """Asks for a video, and gives its card."""
    viewer.page.get_by_label("Prompt").fill(prompt)
    viewer.page.get_by_label("Length").select_option(seconds)
    viewer.press("Make a video")
    card = viewer.page.get_by_role("listitem").filter(has=viewer.page.get_by_role("heading", name=prompt))
    card.wait_for()
    return card


def test_video_is_made_shown_downloaded_and_deleted_and_outlives_a_reload(viewer):
    viewer.page.get_by_label("Seed", exact=True).fill("5")
    card = order(viewer)
    card.get_by_text("Ready", exact=True).wait_for()
    viewer.wait_until_told(f"Ready: {PROMPT}")
    assert "224×128 · 2 s · seed 5" in card.inner_text()
    viewer.page.reload()
    card.get_by_text("Ready", exact=True).wait_for()
    viewer.wait_for("document.querySelector('.video-card video').duration === 2")
    with viewer.page.expect_download() as download:
        card.get_by_role("link", name=f"Download: {PROMPT}").click()
    with av.open(str(download.value.path())) as file:
        assert sum(1 for _ in file.decode(video=0)) == 32
    viewer.shoot("videos", full=True)
    card.get_by_role("button", name=f"Delete: {PROMPT}").click()
    assert card.is_visible()
    card.get_by_role("button", name=f"Delete for good?: {PROMPT}").click()
    card.wait_for(state="detached")
    assert viewer.page.evaluate("document.activeElement.id") == "videos-title"
    assert viewer.page.request.get(f"{viewer.page.url}v1/videos").json()["data"] == []


def test_progress_is_told_while_a_video_is_made_and_it_can_be_cancelled(viewer):
    made = order(viewer, prompt="slow", seconds="30")
    waiting = order(viewer, prompt="a lake", seconds="30")
    waiting.get_by_text("Waiting behind 1 other").wait_for()
    viewer.wait_for("document.querySelector('[data-look=working] progress')?.value > 0")
    assert "Being made" in made.inner_text()
    viewer.shoot("videos-being-made", full=True)
    waiting.get_by_role("button", name="Cancel: a lake").click()
    waiting.get_by_text("Cancelled").wait_for()
    made.get_by_role("button", name="Cancel: slow").click()
    made.get_by_text("Cancelled").wait_for()
    assert made.get_by_role("button", name="Delete: slow").is_visible()


def test_refusal_is_said_beside_the_list(viewer, console_errors):
    refusal = {"error": {"code": "queue_full", "message": "100 videos wait already.", "param": None}}
    viewer.page.route("**/v1/videos", lambda route: route.fulfill(status=429, json=refusal))
    viewer.press("Make a video")
    viewer.page.get_by_role("alert").get_by_text("100 videos wait already.").wait_for()
    console_errors[:] = [text for text in console_errors if "429" not in text]


def test_video_that_failed_says_why_and_one_whose_file_has_gone_says_that(viewer, server):
    failed = order(viewer, prompt="fault")
    failed.get_by_text("Failed:").wait_for()
    assert failed.get_by_role("link", name="Download").count() == 0
    viewer.shoot("video-failed", full=True)


def test_nothing_is_made_without_a_prompt(viewer):
    viewer.page.get_by_label("Prompt").fill(" ")
    viewer.press("Make a video")
    viewer.page.get_by_role("alert").get_by_text("Say what the video should show.").wait_for()


def test_long_list_is_shown_in_pages(viewer, server):
    for number in range(14):
        wish = {"prompt": f"hill {number}", "num_frames": 4}
        assert viewer.page.request.post(f"{server.url}/v1/videos", data=wish).ok
    viewer.page.reload()
    viewer.page.get_by_role("heading", name="hill 13").wait_for()
    cards = viewer.page.locator(".video-card")
    assert cards.count() == 12
    viewer.press("Show older ones")
    viewer.page.get_by_role("heading", name="hill 0").wait_for()
    assert cards.count() == 14
    titles = cards.get_by_role("heading").all_inner_texts()
    assert titles == [f"hill {number}" for number in reversed(range(14))]
    assert not viewer.page.get_by_role("button", name="Show older ones").is_visible()
