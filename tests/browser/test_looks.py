"""How the page looks and sounds: dark, light, on a phone, by keyboard, to a screen reader."""

from __future__ import annotations

import pytest

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
PROMPT = "a yellow hot air balloon over green hills in daylight, clear sky, still camera"


@pytest.mark.parametrize(("name", "options"), [("desktop", {}), ("phone", PHONE)])
def test_page_fits_its_window_idle_and_playing(mini_server, visit, name, options):
    viewer = visit(mini_server.url, **options)
    viewer.wait_for("document.querySelectorAll('#size option').length > 1")
    viewer.shoot(f"{name}-idle", full=True)
    viewer.play(PROMPT)
    viewer.press("Statistics")
    viewer.wait_for("Object.keys(ultraflash.stats.stages).length > 0 && ultraflash.stats.shownFps > 0")
    viewer.shoot(f"{name}-statistics")
    viewer.press("Statistics")
    viewer.wait_for_frames(20)
    viewer.shoot(f"{name}-playing")
    assert viewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("name", "width", "height"), [("360 pixels", 360, 740), ("zoomed to 200%", 640, 400)]
)
def test_nothing_has_to_be_scrolled_sideways(server, visit, name, width, height):
    viewer = visit(server.url, viewport={"width": width, "height": height})
    viewer.press("Statistics")
    viewer.press("Make a video")
    viewer.press("Record")
    viewer.play(PROMPT)
    viewer.page.get_by_text("Ready", exact=True).first.wait_for()
    viewer.wait_for("ultraflash.state === 'playing'")
    viewer.shoot(f"{width}-wide", full=True)
    assert viewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    boxes = viewer.page.locator(".hud, .pill, .composer-row, .videos-head, .stats, .video-card")
    outside = "all => all.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className)"
    assert boxes.evaluate_all(outside) == []
    viewer.press("Let others watch")
    assert viewer.page.get_by_role("button", name="Copy the link").is_visible()
    assert viewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_nothing_moves_by_itself_for_those_who_asked_for_that(server, visit, console_errors):
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    loading = {"ready": False, "stage": "loading weights", "progress": None}
    restless, calm = visit(server.url), visit(server.url, reduced_motion="reduce")
    for viewer, count in ((restless, 1), (calm, 0)):
        viewer.page.route("**/readyz", lambda route: route.fulfill(status=503, json=loading))
        viewer.press("Play")
        viewer.wait_for_state("warming_up")
        viewer.wait_for(f"{moving} === {count}")
        viewer.press("Stop")
    console_errors[:] = [text for text in console_errors if "503" not in text]


FOCUS = """() => {
  const focused = document.activeElement;
  const outlined = (e) => e !== null && !["none", ""].includes(getComputedStyle(e).outlineStyle)
    && parseFloat(getComputedStyle(e).outlineWidth) >= 2;
  const box = focused.getBoundingClientRect();
  return {
    name: focused.id || (focused === document.body ? "" : focused.textContent.trim() || focused.tagName),
    visible: outlined(focused) || outlined(focused.closest(".field, .composer, .video-card")),
    inside: box.bottom > 0 && box.top < innerHeight,
  };
}"""


def test_focus_can_be_seen_wherever_the_keyboard_takes_it(server, visit):
    viewer = visit(server.url)
    viewer.wait_for("document.querySelectorAll('#size option').length > 1")
    viewer.press("Make a video")
    viewer.wait_for("document.querySelector('.video-card video') !== null")
    # The focus is back at the top.
    viewer.page.reload()
    viewer.wait_for("document.querySelector('.video-card video') !== null")
    seen = []
    # Once around.
    while len(seen) < 2 or seen[-1] != seen[0]:
        viewer.page.keyboard.press("Tab")
        seen.append(viewer.page.evaluate(FOCUS))
        assert len(seen) < 100
    names = {one["name"] for one in seen}
    assert {
        "stage",
        "prompt",
        "size",
        "seed",
        "record",
        "go",
        "seconds",
        "make-video",
        "Dusk",
        "VIDEO",
    } <= names
    assert [one for one in seen if one["name"] and not (one["visible"] and one["inside"])] == []


def test_full_screen_shows_picture_and_prompt_and_ends_with_escape(server, visit):
    viewer = visit(server.url)
    viewer.play(PROMPT)
    viewer.page.get_by_role("button", name="Full screen").click()
    viewer.wait_for("document.querySelector('#theatre').classList.contains('is-immersive')")
    viewer.wait_for("document.querySelector('#stage').clientHeight === innerHeight")
    assert viewer.page.get_by_label("Prompt").is_visible()
    viewer.page.wait_for_timeout(500)
    viewer.shoot("full-screen")
    viewer.page.get_by_role("button", name="Full screen").click()
    viewer.wait_for("!document.querySelector('#theatre').classList.contains('is-immersive')")


def test_everything_can_be_done_with_the_keyboard(server, visit):
    viewer = visit(server.url)
    keyboard = viewer.page.keyboard
    keyboard.press("Tab")
    keyboard.press("Enter")
    assert viewer.page.evaluate("document.activeElement.id") == "prompt"
    keyboard.press("Control+A")
    keyboard.type("a city at night")
    keyboard.press("Enter")
    viewer.wait_for_state("playing")
    viewer.page.locator("#stage").focus()
    keyboard.press("p")
    viewer.wait_for_state("paused")
    keyboard.press("Space")
    viewer.wait_for_frames(4)
    keyboard.press("i")
    assert viewer.page.get_by_role("complementary", name="Statistics").is_visible()


def test_every_control_has_a_name_and_changes_are_announced(server, visit):
    viewer = visit(server.url)
    controls = viewer.page.locator("button:visible, input:visible, select:visible, textarea:visible")
    for control in controls.all():
        snapshot = control.aria_snapshot()
        assert '"' in snapshot, f"no accessible name: {control.evaluate('e => e.outerHTML')}"
    viewer.play(PROMPT)
    viewer.wait_until_told(f"Now showing: {PROMPT}")
    picture = viewer.page.get_by_role("img", name=f"Generated video: {PROMPT}")
    assert picture.count() == 1


def test_page_works_under_its_content_security_policy(server, visit, console_errors):
    viewer = visit(server.url)
    policy = viewer.page.request.get(server.url).headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert console_errors == []
