"""What orders are made of wishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ultraflash.models.errors import UltraflashError, UnknownPreset
from ultraflash.server.errors import InvalidField, VideoGone, VideoNotReady
from ultraflash.server.jobs.bodies import validated
from ultraflash.server.jobs.orders import extension_order, new_order, remix_order, replay_order
from ultraflash.server.jobs.records import Cue, Job, Lineage, Order, Reference
from ultraflash.server.jobs.wire import CreateVideo, ReplayEvent, ReplayLog
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
        key_id=None,
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


def replayed(*events: tuple[int, dict[str, Any]], frames: int = 100, **wishes: Any) -> Order:
    """The order of a session of 10 frames a second; events by their frames."""
    log = {
        "model": "mini",
        "seed": 5,
        "fps": 10,
        "frames": frames,
        "events": [{"first_pts_us": frame * 1e5, "group": 0, **event} for frame, event in events],
    }
    size, seconds = wishes.get("size"), wishes.get("seconds")
    return replay_order(ReplayLog.model_validate(log), size, seconds, READY, 60)


BEGINNING = (0, {"prompt": "a hill", "size": "0.5K"})


def test_a_replay_is_the_session_s_log_by_frames() -> None:
    order = replayed(BEGINNING, (21, {"prompt": "a lake", "transition": "blend", "groups": 3}))
    assert (order.seed, order.fps, order.frames) == (5, 10, 100)
    assert order.cues == (
        Cue(frame=0, prompt="a hill"),
        Cue(frame=21, prompt="a lake", transition="blend", groups=3),
    )


def test_a_cut_that_is_spread_over_groups_is_no_event_of_a_log() -> None:
    event = {"first_pts_us": 0.0, "group": 0, "prompt": "a hill", "groups": 5}
    with pytest.raises(InvalidField, match="a cut has groups 1"):
        validated(event, ReplayEvent)
    for transition in ("fade", "blend"):
        assert validated({**event, "transition": transition}, ReplayEvent).groups == 5


def test_of_prompts_before_one_group_a_replay_has_the_last() -> None:
    order = replayed(
        BEGINNING,
        (21, {"prompt": "a lake"}),
        (21, {"prompt": "a town", "transition": "blend", "groups": 2}),
    )
    assert order.cues[1:] == (Cue(frame=21, prompt="a town", transition="blend", groups=2),)


def test_what_a_lost_worker_never_sent_is_not_in_a_replay() -> None:
    again = {"prompt": "a lake", "size": "0.5K", "restarted": True}
    order = replayed(BEGINNING, (33, {"prompt": "a lake"}), (25, again), (34, {"prompt": "a town"}))
    assert order.cues == (
        Cue(frame=0, prompt="a hill"),
        Cue(frame=25, prompt="a lake", restarts=True),
        Cue(frame=34, prompt="a town"),
    )


def test_a_replay_has_the_largest_size_of_the_session_unless_another_is_asked_for() -> None:
    changes = (BEGINNING, (21, {"size": "1K"}), (45, {"size": "0.5K"}))
    assert (replayed(*changes).width, replayed(*changes, size="0.5K").width) == (1664, 832)
    assert len(replayed(*changes).cues) == 1


def test_a_replay_may_be_a_part_of_the_session() -> None:
    order = replayed(BEGINNING, (21, {"prompt": "a lake"}), seconds="2")
    assert (order.frames, len(order.cues)) == (20, 1)
    with pytest.raises(InvalidField, match="at most 60"):
        replayed(BEGINNING, frames=601)
    with pytest.raises(InvalidField, match="no frames yet"):
        replayed(BEGINNING, frames=0)


def test_what_starts_from_a_picture_that_is_gone_is_not_made_again() -> None:
    order = replace(ordered(), reference=Reference(id="ab", bytes=10))
    kept, gone = completed(order), completed(order, has_file=False)
    assert remix_order(kept, "a lake", READY).reference == order.reference
    assert extension_order(kept, "a lake", "1", READY, 60).reference == order.reference
    with pytest.raises(VideoGone):
        remix_order(gone, "a lake", READY)
    assert remix_order(completed(ordered(), has_file=False), "a lake", READY).reference is None
