"""A session that is recorded, and its file."""

from __future__ import annotations

import av


def count_frames(path):
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def test_recorded_session_is_offered_as_a_file_that_stays_over_a_reload(server, visit):
    viewer = visit(server.url)
    page = viewer.page
    viewer.press("Record")
    assert page.get_by_role("button", name="Record").get_attribute("aria-pressed") == "true"
    viewer.play("a lake at dusk")
    assert page.locator("#pill-recording").is_visible()
    assert page.get_by_role("button", name="Record").is_disabled()
    viewer.wait_for_frames(16)
    viewer.shoot("recording")
    shown = viewer.frames
    viewer.press("Stop")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the recording").click()
    assert download.value.suggested_filename.endswith("part-000.mp4")
    assert count_frames(download.value.path()) >= shown
    viewer.wait_until_told("The recording is ready.")
    viewer.shoot("recorded", full=True)
    page.reload()
    card = page.get_by_role("listitem").filter(has_text="Recording of a live stream")
    card.get_by_role("heading", name="a lake at dusk").wait_for()
    viewer.wait_for("document.querySelector('.video-card video').duration > 0.9")
    card.get_by_role("button", name="Forget").click()
    card.wait_for(state="detached")


def test_recording_with_a_change_of_size_comes_in_parts(server, visit):
    viewer = visit(f"{server.url}/?size=0.5K")
    viewer.press("Record")
    viewer.play("a lake at dusk")
    viewer.page.get_by_label("Size").select_option("1K")
    viewer.wait_for("ultraflash.stats.width === 416")
    viewer.wait_for_frames(4)
    viewer.press("Stop")
    viewer.page.get_by_text("It was recorded in 2 parts; they are in the list of videos.").wait_for()
    parts = viewer.page.get_by_role("link", name="Download part")
    addresses = [parts.nth(number).get_attribute("href") for number in range(parts.count())]
    assert [address.rpartition("part=")[2] for address in addresses] == ["0", "1"]


def test_session_without_recording_offers_no_file(server, visit):
    viewer = visit(server.url)
    viewer.play("a lake at dusk")
    assert not viewer.page.locator("#pill-recording").is_visible()
    viewer.press("Stop")
    viewer.wait_for_state("ended")
    assert not viewer.page.get_by_role("link", name="Download the recording").is_visible()


def test_recording_of_a_session_that_ended_by_itself_is_offered_too(server, visit):
    viewer = visit(server.url)
    viewer.press("Record")
    viewer.play("a lake at dusk")
    viewer.enter("fault")
    viewer.page.get_by_text("It was recorded.").wait_for()
    assert viewer.page.get_by_role("link", name="Download the recording").is_visible()
