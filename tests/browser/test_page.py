"""The page against the real server: play, steer, resize, pause, stop."""

from __future__ import annotations

from statistics import fmean

import pytest

DAY = "desert at day, clear sky"
NIGHT = "snowy mountains at night, snow falling"
PLAYERS = pytest.mark.parametrize("player", ["webcodecs", "mse"])


def difference(one: list[int], other: list[int]) -> float:
    """Mean absolute difference of two thumbnails, 0 to 255."""
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))


@PLAYERS
def test_real_picture_moves_on_and_changes_after_the_prompt_does(mini_server, visit, player):
    viewer = visit(f"{mini_server.url}/?player={player}&seed=7")
    viewer.play(DAY)
    first_pts = viewer.page.evaluate("ultraflash.lastPtsUs")
    viewer.wait_for_frames(16)
    assert viewer.page.evaluate("ultraflash.player") == player
    assert viewer.page.evaluate("ultraflash.lastPtsUs") >= first_pts + 15 * 62_500
    before = viewer.look()
    assert max(before) > min(before)
    viewer.steer(NIGHT)
    viewer.wait_for_frames(24)
    assert viewer.stats["promptMs"] > 0
    assert difference(before, viewer.look()) > 10
    assert NIGHT in viewer.page.locator("#directions").inner_text()
    viewer.shoot(f"after-steering-{player}")


@PLAYERS
def test_size_changes_while_it_plays(server, visit, player):
    viewer = visit(f"{server.url}/?player={player}&size=0.5K")
    sizes = viewer.page.request.get(f"{server.url}/v1/capabilities").json()["presets"][0]["sizes"]
    small, large = (next(size for size in sizes if size["name"] == name) for name in ("0.5K", "1K"))
    viewer.play(DAY)
    assert viewer.stats["width"] == small["width"]
    viewer.page.get_by_label("Size").select_option("1K")
    canvas, video = "document.querySelector('#picture:not([hidden])')", "document.querySelector('#video')"
    viewer.wait_for(f"({canvas}?.width ?? {video}.videoWidth) === {large['width']}")
    viewer.wait_for_frames(4)
    assert viewer.stats["height"] == large["height"]
    assert viewer.state in ("playing", "rebuffering")
    viewer.wait_until_told("Size 1K")


@PLAYERS
def test_pause_holds_the_picture_and_going_on_continues_it(server, visit, player):
    viewer = visit(f"{server.url}/?player={player}")
    viewer.play(DAY)
    viewer.page.get_by_role("button", name="Pause").click()
    viewer.wait_for_state("paused")
    viewer.page.wait_for_timeout(400)
    held, picture = viewer.frames, viewer.look()
    viewer.page.wait_for_timeout(1000)
    assert viewer.frames == held
    assert viewer.look() == picture
    viewer.page.get_by_role("button", name="Go on").click()
    viewer.wait_for_frames(8)
    assert viewer.state in ("playing", "rebuffering")


def test_chosen_seed_is_the_one_in_use(server, visit):
    viewer = visit(server.url)
    viewer.page.get_by_label("Seed", exact=True).fill("11")
    viewer.play(DAY)
    assert viewer.stats["seed"] == 11


def test_statistics_show_what_the_server_reports(server, visit):
    viewer = visit(server.url)
    viewer.page.get_by_role("button", name="Statistics").click()
    viewer.play(DAY)
    viewer.wait_for("Object.keys(ultraflash.stats.stages).length > 0 && ultraflash.stats.shownFps > 0")
    panel = viewer.page.get_by_role("complementary", name="Statistics")
    text = panel.inner_text()
    for name in ("Generated", "Shown", "Ahead", "Bit rate", "avc1", "encode", "WebCodecs"):
        assert name in text
    viewer.shoot("statistics")


def test_stopped_session_can_be_played_again(server, visit):
    viewer = visit(server.url)
    viewer.play(DAY)
    viewer.page.get_by_role("button", name="Stop").click()
    viewer.wait_for_state("ended")
    viewer.shoot("ended")
    viewer.page.get_by_role("button", name="Play again").click()
    viewer.wait_for("ultraflash.state === 'playing' && ultraflash.framesShown > 0")


def test_word_steers_while_it_plays(server, visit):
    viewer = visit(server.url)
    viewer.play(DAY)
    viewer.page.get_by_role("button", name="Dusk", exact=True).click()
    viewer.wait_for("ultraflash.stats.promptsApplied === 1")
    assert viewer.page.get_by_label("Prompt").input_value() == "desert at dusk, clear sky"
    assert viewer.page.get_by_role("button", name="Dusk", exact=True).get_attribute("aria-pressed") == "true"


def test_empty_prompt_is_refused_with_a_hint(server, visit):
    viewer = visit(server.url)
    viewer.page.get_by_label("Prompt").fill("   ")
    viewer.page.get_by_label("Prompt").press("Enter")
    viewer.page.get_by_role("alert").get_by_text("Say what the video should show.").wait_for()
    assert viewer.state == "idle"
