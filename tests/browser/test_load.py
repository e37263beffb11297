"""The page at a server that is busy: in the queue, and at the size that the machine holds. The pattern engine is
quick to start, and as slow as a test wants it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Costs = Callable[[float, float], None]


@pytest.fixture
def costs(own_server, tmp_path: Path) -> Costs:
    """Sets the seconds that a group of 0.75 s takes, by size."""
    path = tmp_path / "costs.json"
    own_server.settings |= {"PATTERN_COSTS": str(path), "ULTRAFLASH_SIZE": "1K"}

    def takes(small: float, large: float) -> None:
        hidden = path.with_suffix(".part")
        hidden.write_text(json.dumps({"0.5K": small, "1K": large}))
        hidden.replace(path)

    return takes


def test_who_finds_no_room_sees_its_place_in_the_queue_and_plays_when_the_other_stops(
    own_server, visit, costs
):
    costs(0.05, 0.1)
    own_server.settings["ULTRAFLASH_STREAM__MAX_STREAMS"] = "1"
    own_server.launch()
    own_server.wait_until_ready()
    first, second = visit(own_server.url), visit(own_server.url)
    first.play("a red hill")
    second.page.get_by_role("button", name="Play").click()
    second.wait_for_state("queued")
    second.page.get_by_text("Place 1 of 1 in the queue").wait_for()
    second.shoot("queued")
    first.page.get_by_role("button", name="Stop").click()
    second.wait_for_state("playing")


def test_a_picture_gets_smaller_and_larger_again_while_it_plays_on(own_server, visit, costs):
    costs(0.05, 0.15)
    own_server.settings["ULTRAFLASH_STREAM__RAISE_AFTER_S"] = "1"
    own_server.launch()
    own_server.wait_until_ready()
    viewer = visit(own_server.url)
    viewer.play("a red hill")
    assert viewer.stats["width"] == 416
    costs(0.4, 1.2)
    viewer.wait_for("ultraflash.stats.width === 224", seconds=120)
    viewer.page.get_by_text("the machine is busy").first.wait_for()
    viewer.wait_for_frames(100)
    costs(0.05, 0.15)
    viewer.wait_for("ultraflash.stats.width === 416", seconds=120)
    viewer.wait_for_frames(24)
    # A size by name is an exact one, until the server may choose again.
    for choice, width in (("0.5K", 224), ("auto", 416)):
        viewer.page.get_by_label("Size").select_option(choice)
        viewer.wait_for(f"ultraflash.stats.width === {width}")
    viewer.wait_for_frames(12)
