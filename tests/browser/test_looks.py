"""How the page looks and sounds: dark, light, on a phone, by keyboard, to a screen reader."""

from __future__ import annotations

import pytest

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
PROMPT = "snowy mountains at dusk, clear sky, camera pans left"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("desktop-dark", {"color_scheme": "dark"}),
        ("desktop-light", {"color_scheme": "light"}),
        ("phone-dark", {"color_scheme": "dark", **PHONE}),
        ("phone-light", {"color_scheme": "light", **PHONE}),
    ],
)
def test_page_fits_its_window_idle_and_playing(server, visit, name, options):
    viewer = visit(server.url, **options)
    viewer.wait_for("document.querySelectorAll('#size option').length > 1")
    viewer.shoot(f"{name}-idle")
    viewer.play(PROMPT)
    viewer.wait_for_frames(20)
    viewer.shoot(f"{name}-playing")
    assert viewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


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
    viewer.wait_for(f"document.querySelector('[role=status]').textContent.includes('Now showing: {PROMPT}')")
    picture = viewer.page.get_by_role("img", name=f"Generated video: {PROMPT}")
    assert picture.count() == 1


def test_page_works_under_its_content_security_policy(server, visit, console_errors):
    viewer = visit(server.url)
    policy = viewer.page.request.get(server.url).headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert console_errors == []
