"""What orders are made of wishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ultraflash.models.errors import UltraflashError, UnknownPreset
from ultraflash.server.errors import InvalidField, VideoNotReady
from ultraflash.server.jobs.orders import extension_order, new_order, remix_order
from ultraflash.server.jobs.records import Cue, Job, Lineage, Order
from ultraflash.server.jobs.wire import CreateVideo
from ultraflash.server.worker.messages import WorkerReady

READY = WorkerReady(
    model="mini",
    fps=16,
    sizes=[["0.5K", 832, 480], ["1K", 1664, 960]],
    default_size="0.5K",
    max_prompt_chars=20,
    frame_seconds={},
)


def ordered(**fields: Any) -> Order:
    return new_order(CreateVideo(prompt="a hill", **fields), READY, 60)


def completed(order: Order, **fields: Any) -> Job:
    job = Job(
        number=1,
        id="video_1",
        state="completed",
        order=order,
        lineage=Lineage(),
        created_at=0,
        started_at=0,
        completed_at=0,
        expires_at=None,
        frames_done=0,
        attempts=0,
        owner=None,
        error_code=None,
        error_message=None,
        room_bytes=0,
        has_file=True,
    )
    return replace(job, **fields)


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({}, 64),
        ({"seconds": "2.5"}, 40),
        ({"seconds": 2}, 32),
        ({"seconds": "0.001"}, 1),
        ({"seconds": "2", "fps": 24}, 48),
        ({"num_frames": 7}, 7),
        ({"num_frames": 32, "seconds": "2"}, 32),
        ({"num_frames": "7"}, 7),
    ],
)
def test_length_comes_from_seconds_or_frames(fields: dict[str, Any], frames: int) -> None:
    assert ordered(**fields).frames == frames


@pytest.mark.parametrize("size", ["1K", "1k", "1664x960", "1664X960"])
def test_a_size_is_a_name_or_pixels(size: str) -> None:
    order = ordered(size=size)
    assert (order.width, order.height) == (1664, 960)
    assert ordered().width == ordered(size="auto").width == 832


def test_a_seed_is_drawn_unless_given() -> None:
    assert ordered(seed=5).seed == 5
    assert ordered().seed != ordered().seed


def test_a_remix_changes_the_prompt_alone() -> None:
    source = ordered(seed=5, seconds="2", size="1K", fps=24)
    assert remix_order(completed(source), " a lake ", READY) == replace(
        source, cues=(Cue(frame=0, prompt="a lake"),)
    )


def test_an_extension_begins_with_all_of_its_source() -> None:
    source = ordered(seed=5, seconds="2")
    once = extension_order(completed(source), "a lake", "1", READY, 60)
    assert once == replace(source, cues=(*source.cues, Cue(frame=32, prompt="a lake")), frames=48)
    twice = extension_order(completed(once), "a town", "1", READY, 60)
    assert [cue.frame for cue in twice.cues] == [0, 32, 48]
    assert (twice.frames, twice.prompt) == (64, "a town")
    with pytest.raises(InvalidField, match="together would have 61 seconds"):
        extension_order(completed(source), "a lake", "59", READY, 60)


@pytest.mark.parametrize("state", ["queued", "in_progress", "failed", "cancelled"])
def test_only_what_is_complete_goes_on(state: str) -> None:
    with pytest.raises(VideoNotReady, match=state.replace("_", ".")):
        remix_order(completed(ordered(), state=state), "a lake", READY)


def test_a_video_of_another_model_does_not_go_on_here() -> None:
    with pytest.raises(UnknownPreset, match="'mini'"):
        extension_order(completed(replace(ordered(), model="other")), "a lake", "1", READY, 60)


@pytest.mark.parametrize("prompt", [" ", "x" * 21])
def test_a_prompt_is_checked_in_every_way_in(prompt: str) -> None:
    for order in (
        lambda: new_order(CreateVideo(prompt=prompt), READY, 60),
        lambda: remix_order(completed(ordered()), prompt, READY),
        lambda: extension_order(completed(ordered()), prompt, "1", READY, 60),
    ):
        with pytest.raises(UltraflashError):
            order()
