"""The page in Firefox, where there is one: it plays in either way, or says why it cannot."""

from __future__ import annotations

import os
import shutil

import pytest
from firefox import firefox

PROGRAMS = ("firefox-esr", "firefox")


@pytest.fixture(scope="module")
def fox(tmp_path_factory, screenshots):
    program = os.environ.get("ULTRAFLASH_FIREFOX") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Firefox here; install firefox-esr, or name one with ULTRAFLASH_FIREFOX")
    with firefox(program, tmp_path_factory.mktemp("firefox"), screenshots) as running:
        yield running


def play(fox, prompt):
    fox.evaluate(f"document.querySelector('#prompt').value = {prompt!r}")
    fox.evaluate("document.querySelector('#go').click()")


@pytest.mark.parametrize(
    ("player", "can_play"),
    [
        ("webcodecs", "VideoDecoder.isConfigSupported({ codec: 'avc1.640033' }).then((s) => s.supported)"),
        ("mse", "MediaSource.isTypeSupported('video/mp4; codecs=\"avc1.64001f\"')"),
    ],
    ids=["webcodecs", "mse"],
)
def test_firefox_plays_and_steers(server, fox, player, can_play):
    fox.visit(f"{server.url}/?player={player}")
    if not fox.evaluate(can_play):
        pytest.skip(f"this Firefox does not decode H.264 by {player}")
    play(fox, "a lake at dawn")
    fox.wait_for("ultraflash.framesShown >= 16")
    assert fox.evaluate("ultraflash.player") == player
    play(fox, "a lake at night")
    fox.wait_for("ultraflash.stats.promptsApplied === 1")
    fox.evaluate("document.querySelector('#stats-toggle').click()")
    fox.wait_for("Object.keys(ultraflash.stats.stages).length > 0")
    fox.shoot(f"firefox-{player}")
    fox.evaluate("document.querySelector('#stop').click()")
    fox.wait_for("ultraflash.state === 'ended'")
    assert fox.errors == []


def test_browser_that_plays_no_h264_says_so(server, fox):
    fox.call(
        "script.addPreloadScript",
        functionDeclaration="() => { delete window.VideoDecoder; delete window.MediaSource; }",
    )
    fox.visit(server.url)
    fox.wait_for("ultraflash.state === 'error'")
    reason = "This browser plays neither WebCodecs nor Media Source Extensions"
    # The card is drawn after the state has changed.
    fox.wait_for(f"document.querySelector('#card').innerText.includes({reason!r})")
    fox.shoot("firefox-without-codecs")
