"""What is kept of a live stream, and that a worker goes on from it with the very frames that would have come."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pattern_engine import PatternEngine

from ultraflash.models.cascade import Cascade
from ultraflash.server.engine import Engine
from ultraflash.server.worker.live_stream import LiveStream, advance, apply_changes, make_group, open_stream
from ultraflash.server.worker.messages import OpenStream, PromptShown, SetPrompt
from ultraflash.server.worker.playhead import PacingRule, Playhead
from ultraflash.server.worker.stream_snapshot import (
    MOST_FRAMES_AGAIN,
    SnapshotFiles,
    SnapshotRule,
    StreamKeeping,
    StreamSnapshot,
    find_snapshots,
    slot_paths,
)

# The small networks are those of the tests of models.
sys.path.append(str(Path(__file__).parents[2] / "models" / "rig"))

PACING = PacingRule(ahead_us=1.5e6, ack_pause_s=15, ack_end_s=60, paused_end_s=600)
STREAM = "session_1"
FRAME_US = 62_500.0


def snapshot(next_index: int, state: bytes = b"state") -> StreamSnapshot:
    return StreamSnapshot(state=state, next_index=next_index, groups=next_index // 12)


def indices(folder: Path, first_index: int) -> list[int]:
    return [found.next_index for found in find_snapshots(folder, STREAM, first_index)]


def test_the_three_newest_are_kept_and_the_nearest_reachable_one_comes_first(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path, STREAM, None)
    for index in (9, 12, 24, 36):
        files.write(snapshot(index))
    assert indices(tmp_path, 40) == [36, 24, 12]
    assert indices(tmp_path, 36) == [36, 24, 12]
    assert indices(tmp_path, 30) == [24, 12, 36]
    assert indices(tmp_path, 10) == [12, 24, 36]
    assert indices(tmp_path, 36 + MOST_FRAMES_AGAIN + 1) == []
    assert find_snapshots(tmp_path, "another", 36) == []


def test_the_one_that_a_stream_was_made_of_is_overwritten_last(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path, STREAM, None)
    files.write(snapshot(12))
    files.write(snapshot(24))
    files.write(snapshot(36))
    (used, *_) = find_snapshots(tmp_path, STREAM, 30)
    again = SnapshotFiles(tmp_path, STREAM, used)
    again.write(snapshot(34))
    again.write(snapshot(46))
    assert indices(tmp_path, 50) == [46, 34, 24]


def test_nothing_that_was_on_its_way_to_the_owner_is_lost_with_the_server(tmp_path: Path) -> None:
    """Groups are made as far ahead as they may be of an owner who has seen so many frames."""
    for seen in range(1, 60):
        files = SnapshotFiles(tmp_path, f"session_{seen}", None)
        head = Playhead(PACING, now=0, playhead_us=seen * FRAME_US, sent_us=0)
        made = 0
        while head.may_generate((12 if made else 9) * FRAME_US, now=0):
            made += 12 if made else 9
            head.sent(made * FRAME_US, now=0)
            files.write(snapshot(made))
        if made > 2 * 12:
            nearest = find_snapshots(tmp_path, f"session_{seen}", seen)[0]
            assert nearest.next_index <= seen, (seen, made)


@pytest.mark.parametrize("spoil", ["first byte", "number", "last byte", "cut", "emptied"])
def test_a_torn_one_is_left_aside(tmp_path: Path, spoil: str) -> None:
    files = SnapshotFiles(tmp_path, STREAM, None)
    files.write(snapshot(12))
    files.write(snapshot(24))
    newest = slot_paths(tmp_path, STREAM)[1]
    data = bytearray(newest.read_bytes())
    if spoil == "cut":
        data = data[:-1]
    elif spoil == "emptied":
        data = bytearray()
    else:
        data[{"first byte": 0, "number": 9, "last byte": -1}[spoil]] ^= 1
    newest.write_bytes(data)
    assert indices(tmp_path, 24) == [12]


def test_a_shorter_state_over_a_longer_one_is_whole(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path, STREAM, None)
    for index, size in ((12, 1000), (24, 900), (36, 800), (48, 10)):
        files.write(snapshot(index, b"x" * size))
    assert [len(found.state) for found in find_snapshots(tmp_path, STREAM, 48)] == [10, 800, 900]


def kept_by(keeping: StreamKeeping, engine: Engine, work_s: float) -> bool:
    state = engine.open("a hill", size="0.5K", seed=1)
    write = keeping.after_group(engine, state, next_index=12, groups=1, work_s=work_s)
    if write is not None:
        write()
    return write is not None


class SlowKeeper(PatternEngine):
    """Takes about 20 ms of processor time for a snapshot."""

    def save_stream(self, state: Any, max_bytes: int | None = None) -> bytes:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return super().save_stream(state)


def test_a_dear_snapshot_is_made_only_behind_enough_work(tmp_path: Path) -> None:
    rule = SnapshotRule(folder=tmp_path, share=0.1, max_bytes=1000)
    keeping = StreamKeeping(SnapshotFiles(tmp_path, STREAM, None), rule, STREAM)
    made = [kept_by(keeping, SlowKeeper(), work_s=0.09) for _ in range(4)]
    assert made == [True, False, False, True]


def test_one_that_is_too_large_or_cannot_be_written_is_no_fault_and_leaves_none_behind(
    tmp_path: Path,
) -> None:
    files = SnapshotFiles(tmp_path, STREAM, None)
    files.write(snapshot(12))
    tight = StreamKeeping(files, SnapshotRule(folder=tmp_path, share=1, max_bytes=10), STREAM)
    assert not kept_by(tight, PatternEngine(), work_s=9)
    assert indices(tmp_path, 12) == []
    nowhere = tmp_path / "nowhere"
    homeless = StreamKeeping(
        SnapshotFiles(nowhere, STREAM, None), SnapshotRule(folder=nowhere, share=1, max_bytes=1000), STREAM
    )
    assert kept_by(homeless, PatternEngine(), work_s=9)
    assert not kept_by(homeless, PatternEngine(), work_s=9)


def opening(first_index: int, changes: list[dict[str, Any]]) -> OpenStream:
    return OpenStream(
        stream_id=STREAM,
        prompt="a lighthouse by the sea at dawn",
        asked_size="0.5K",
        size="0.5K",
        seed=7,
        fps=None,
        bitrate=None,
        max_frames=None,
        paused=False,
        first_index=first_index,
        generation=0,
        playhead_us=0.0,
        restore=True,
        changes=changes,
    )


def opened(engine: Engine, folder: Path, first_index: int, changes: list[dict[str, Any]]) -> LiveStream:
    rule = SnapshotRule(folder=folder, share=1.0, max_bytes=2**30)
    return open_stream(engine, opening(first_index, changes), PACING, rule, engine.preset.size("0.5K"), 0.0)


def set_prompt(stream: LiveStream, prompt: str, transition: Any = "cut", groups: int = 1) -> None:
    stream.new_prompts.append(
        SetPrompt(stream_id=STREAM, event_id=prompt, prompt=prompt, transition=transition, groups=groups)
    )


def next_frames(engine: Engine, stream: LiveStream, *, keep: bool = True) -> tuple[np.ndarray, list[int]]:
    """Frames of the next group that are to be sent, and the groups whose prompts were announced with it."""
    reports = apply_changes(engine, stream)
    group = make_group(engine, stream)
    assert group.first_index == stream.next_index
    if keep and group.keep is not None:
        group.keep()
    advance(stream, group, 0.0)
    return group.frames_THWC, [report.group for report in reports if isinstance(report, PromptShown)]


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    """The cascade as it is, with small networks."""
    from small_cascade import small_cascade, small_preset

    from ultraflash.models.text import MiniLMEncoder

    return small_cascade(small_preset(), text=MiniLMEncoder())


def test_a_cascade_goes_on_bit_for_bit_from_any_frame_of_a_group(cascade: Cascade, tmp_path: Path) -> None:
    """A prompt changes before the kill, one is announced but unseen at the kill, one still waits."""
    prompts = {1: ("the sea at night",), 3: ("a desert at noon", "blend", 2), 5: ("snow at dawn",)}
    undisturbed = opened(cascade, tmp_path / "unused", 0, [])
    undisturbed.keeping = None
    expected: list[np.ndarray] = []
    for group in range(6):
        if group in prompts:
            set_prompt(undisturbed, *prompts[group])
        expected += list(next_frames(cascade, undisturbed)[0])

    stream = opened(cascade, tmp_path, 0, [])
    for group in range(4):
        if group in prompts:
            set_prompt(stream, *prompts[group])
        _, announced = next_frames(cascade, stream, keep=group < 3)
    assert announced == [3]
    log = [
        {"group": 1, "first_pts_us": 0.0, "prompt": "the sea at night"},
        {"group": 3, "first_pts_us": 0.0, "prompt": "a desert at noon", "transition": "blend", "groups": 2},
    ]
    size = stream.group_frames
    for sent in (stream.next_index - size, stream.next_index - 3, stream.next_index):
        again = opened(cascade, tmp_path, sent, log)
        again.keeping = None
        assert again.groups == 3
        got: list[np.ndarray] = []
        while len(got) < len(expected) - sent:
            if again.groups == 5:
                set_prompt(again, *prompts[5])
            frames, announced = next_frames(cascade, again)
            got += list(frames)
        assert announced == [5]
        np.testing.assert_array_equal(np.stack(got), np.stack(expected[sent:]))


def test_what_waits_does_not_show_in_the_middle_of_a_group_that_was_sent_in_part(tmp_path: Path) -> None:
    engine = PatternEngine()
    stream = opened(engine, tmp_path, 0, [])
    for _ in range(2):
        next_frames(engine, stream)
    assert stream.next_index == 21
    again = opened(engine, tmp_path, 25, [])
    set_prompt(again, "a desert")
    rest, announced = next_frames(engine, again)
    assert (len(rest), announced) == (8, [])
    following, announced = next_frames(engine, again)
    assert announced == [3]
    assert (rest[0, -1, -1] != following[0, -1, -1]).any()


def test_a_size_that_was_announced_but_not_seen_is_made_in_its_group(tmp_path: Path) -> None:
    engine = PatternEngine()
    stream = opened(engine, tmp_path, 0, [])
    for _ in range(2):
        next_frames(engine, stream)
    log = [{"group": 3, "first_pts_us": 33e6 / 16, "size": "1K"}]
    again = opened(engine, tmp_path, 25, log)
    apply_changes(engine, again)
    rest = make_group(engine, again)
    advance(again, rest, 0.0)
    apply_changes(engine, again)
    following = make_group(engine, again)
    assert (rest.size, rest.frames_THWC.shape[1:3]) == ("0.5K", (128, 224))
    assert (following.size, following.frames_THWC.shape[1:3], following.first_index) == ("1K", (240, 416), 33)
    assert not rest.discontinuity and not following.discontinuity


def test_frames_that_no_snapshot_reaches_are_left_out_and_the_next_one_is_flagged(tmp_path: Path) -> None:
    engine = PatternEngine()
    stream = opened(engine, tmp_path, 0, [])
    for _ in range(4):
        next_frames(engine, stream)
    again = opened(engine, tmp_path, 3, [])
    assert (again.next_index, again.groups) == (21, 2)
    assert make_group(engine, again).discontinuity


def test_a_state_of_another_engine_is_left_aside_and_the_stream_starts_anew(tmp_path: Path) -> None:
    SnapshotFiles(tmp_path, STREAM, None).write(snapshot(12, b"not a kept stream"))
    stream = opened(PatternEngine(), tmp_path, 15, [])
    assert (stream.groups, stream.next_index, stream.made_index) == (0, 15, 15)
    assert make_group(PatternEngine(), stream).discontinuity
