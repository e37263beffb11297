"""The share of the bitrate follows how late frames are, with a clock that the test turns."""

from __future__ import annotations

import pytest

from ultraflash.server.bitrate import SMALLEST_SHARE, BitrateControl, Step

FRAME_US = 62_500.0
FRAME_S = FRAME_US / 1e6


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Link:
    """A stream of single frames, or of groups, whose frames arrive ``delay_s`` after they left."""

    def __init__(self, group: int = 1) -> None:
        self.clock = Clock()
        self.control = BitrateControl(self.clock)
        self._group = group
        self._sent = 0

    def run(self, seconds: float, delay_s: float, *, queued: bool = False) -> list[Step]:
        steps = []
        end = self.clock.now + seconds
        while self.clock.now < end:
            for _ in range(self._group):
                self.control.sent(self._sent * FRAME_US, FRAME_US)
                self._sent += 1
            start = self.clock.now
            for index in range(self._group):
                self.clock.now = start + index * FRAME_S + delay_s
                steps.append(self.control.step(queued=queued))
                self.control.received((self._sent - self._group + index) * FRAME_US, 0)
                steps.append(self.control.step(queued=queued))
            self.clock.now = max(start + self._group * FRAME_S, self.clock.now)
        return [step for step in steps if step is not Step.KEEP]


def test_a_connection_that_carries_it_all_changes_nothing() -> None:
    link = Link()
    assert link.run(10, 0.03) == []
    assert link.control.share == 1


def test_distance_alone_is_no_congestion() -> None:
    link = Link()
    assert link.run(10, 0.4) == []


def test_groups_that_arrive_as_they_play_are_not_late() -> None:
    link = Link(group=12)
    assert link.run(10, 0.01) == []


def test_late_frames_lower_the_share_step_by_step_down_to_a_floor() -> None:
    link = Link()
    link.run(1, 0.02)
    steps = link.run(0.6, 0.35)
    assert steps[:1] == [Step.CHANGE_SHARE]
    assert link.control.share in (pytest.approx(0.7), pytest.approx(0.49))
    link.run(20, 0.35)
    assert link.control.share == SMALLEST_SHARE
    assert Step.HOLD not in steps


def test_the_share_comes_back_slowly_and_ends_at_one() -> None:
    link = Link()
    link.run(1, 0.02)
    link.run(0.1, 0.35)
    low = link.control.share
    link.run(2.2, 0.02)
    assert link.control.share == pytest.approx(low * 1.08)
    link.run(40, 0.02)
    assert link.control.share == 1


def test_frames_are_held_back_only_when_they_pile_up_here_and_go_on_when_all_has_arrived() -> None:
    link = Link()
    control, clock = link.control, link.clock
    link.run(1, 0.02)
    for index in range(1000, 1010):
        control.sent(index * FRAME_US, FRAME_US)
    clock.now += 1.0
    assert control.step(queued=False) is Step.CHANGE_SHARE
    assert control.step(queued=True) is Step.HOLD
    control.never_sent(4)
    assert control.step(queued=False) is Step.KEEP
    control.received(1004 * FRAME_US, 0)
    assert control.step(queued=False) is Step.KEEP
    control.received(1004 * FRAME_US, 2 * FRAME_US)
    assert control.step(queued=False) is Step.RELEASE


def test_what_is_buffered_has_arrived_though_it_is_not_shown() -> None:
    control = BitrateControl(clock := Clock())
    for index in range(12):
        control.sent(index * FRAME_US, FRAME_US)
    control.received(0.0, 12 * FRAME_US - 3000)
    clock.now += 5
    assert control.late_s == 0


def test_silence_means_nothing_before_the_first_answer_and_while_resting() -> None:
    link = Link()
    link.control.sent(0.0, FRAME_US)
    link.clock.now += 9
    assert link.control.step(queued=True) is Step.KEEP
    link.control.received(0.0, 0)
    link.control.sent(FRAME_US, FRAME_US)
    link.clock.now += 9
    link.control.rest()
    assert link.control.step(queued=True) is Step.KEEP
