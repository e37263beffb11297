"""The page of a server that wants an API key."""

from __future__ import annotations

import pytest

from ultraflash.server.keys.secret import new_secret
from ultraflash.server.keys.store import KeyStore


@pytest.fixture
def key(own_server, tmp_path, monkeypatch) -> str:
    """Starts a server, on an engine that is quick, and makes a key for it."""
    monkeypatch.setenv("ULTRAFLASH_HTTP__AUTH", "required")
    monkeypatch.setenv("ULTRAFLASH_KEYS__TICKET_S", "2")
    store = KeyStore.open(f"sqlite:///{tmp_path / 'data' / 'ultraflash.db'}")
    secret, _ = store.create("page")
    store.close()
    own_server.launch()
    own_server.wait_until_ready()
    return secret


def test_the_page_asks_for_the_key_keeps_it_in_the_tab_and_plays(
    own_server, key: str, visit, console_errors: list[str]
) -> None:
    viewer = visit(own_server.url)
    page = viewer.page
    box = page.get_by_label("API key", exact=True)
    box.wait_for()
    viewer.shoot("api-key")
    box.fill(new_secret())
    box.press("Enter")
    page.get_by_text("does not exist, has expired or was revoked").first.wait_for()
    box.fill(key)
    page.get_by_role("button", name="Use it").click()
    page.locator("#size option").nth(1).wait_for(state="attached")
    # The refusals that were meant.
    assert console_errors
    assert all("401" in error for error in console_errors), console_errors
    console_errors.clear()
    viewer.play("a hill")
    page.reload()
    page.locator("#size option").nth(1).wait_for(state="attached")
    assert not page.get_by_role("dialog").is_visible()
    viewer.play("a lake")
    assert page.evaluate("localStorage.length") == 0
    assert key not in page.evaluate("location.href + document.cookie + document.documentElement.outerHTML")


def test_videos_are_made_followed_and_played_with_a_key(own_server, key: str, visit, console_errors) -> None:
    viewer = visit(own_server.url)
    page = viewer.page
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use it").click()
    page.locator("#size option").nth(1).wait_for(state="attached")
    console_errors.clear()
    page.get_by_label("Prompt").fill("a hill")
    page.locator("#make-video").click()
    video = page.locator(".video-card video")
    video.wait_for()
    viewer.wait_for("document.querySelector('.video-card video').readyState >= 1")
    address = video.get_attribute("src")
    assert "?ticket=" in address
    assert key not in address
    # By now that ticket may be worth nothing; a download gets one of its own.
    page.wait_for_timeout(2500)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.url != page.url + address.removeprefix("/")
    assert download.value.path().stat().st_size > 0


def test_whoever_has_no_key_is_told_so(own_server, key: str, visit, console_errors: list[str]) -> None:
    page = visit(own_server.url).page
    page.get_by_role("button", name="Not now").click()
    page.get_by_text("makes nothing without an API key").wait_for()
    assert all("401" in error for error in console_errors)
    console_errors.clear()
