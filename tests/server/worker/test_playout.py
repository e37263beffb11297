"""Late groups: those that the device is to blame for, and no others."""

from __future__ import annotations

from ultraflash.server.worker.playout import Playout

GROUP_S = 0.75
AHEAD_S = 1.5


def test_the_first_group_is_never_late_and_real_time_never_is() -> None:
    playout = Playout(AHEAD_S)
    for group in range(20):
        playout.sent(GROUP_S, 100 + group * GROUP_S)
    assert playout.misses == 0


def test_a_device_that_is_too_slow_is_late_with_every_group() -> None:
    playout = Playout(AHEAD_S)
    for group in range(11):
        playout.sent(GROUP_S, group * 1.2 * GROUP_S)
    assert playout.misses == 10


def test_one_stall_is_one_miss() -> None:
    playout = Playout(AHEAD_S)
    for group in range(11):
        playout.sent(GROUP_S, group * GROUP_S + (3 if group > 5 else 0))
    assert playout.misses == 1


def test_what_was_made_ahead_is_a_cushion_as_thick_as_the_limit_and_no_thicker() -> None:
    playout = Playout(AHEAD_S)
    for group in range(50):
        playout.sent(GROUP_S, group * 0.1)
    playout.sent(GROUP_S, 4.9 + AHEAD_S)
    assert playout.misses == 0
    playout.sent(GROUP_S, 4.9 + AHEAD_S + GROUP_S + 0.1)
    assert playout.misses == 1


def test_an_owner_that_pauses_or_dawdles_makes_no_group_late() -> None:
    playout = Playout(AHEAD_S)
    now = 0.0
    for _ in range(10):
        playout.sent(GROUP_S, now)
        # Rests for ten seconds, and the device takes its time then.
        playout.held(now + 10)
        now += 10 + 0.9 * GROUP_S
    assert playout.misses == 0


def test_a_device_that_was_busy_elsewhere_is_to_blame_although_the_owner_had_enough_when_it_left() -> None:
    playout = Playout(AHEAD_S)
    playout.sent(GROUP_S, 0.0)
    playout.sent(GROUP_S, 0.1)
    playout.held(0.1)
    # A group of a job takes until second 3; the owner ran dry at 1.5.
    playout.sent(GROUP_S, 3.4)
    assert playout.misses == 1
