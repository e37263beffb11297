"""What frames cost, by measurements that come and go."""

from __future__ import annotations

import pytest

from ultraflash.server.worker.cost_book import FORGOTTEN_AFTER_S, CostBook

PIXELS = {"0.5K": 100, "1K": 400, "2K": 900}


def book(**seconds: float) -> CostBook:
    made = CostBook(PIXELS)
    for size, cost in seconds.items():
        made.begin("0.5K" if size == "small" else "1K", cost)
    return made


def run(costs: CostBook, size: str, seconds: float, groups: int = 10) -> None:
    for _ in range(groups):
        costs.measured(size, seconds)


def test_nothing_is_known_before_anything_was_measured() -> None:
    costs = book()
    assert costs.all_seconds() == {"0.5K": 0, "1K": 0, "2K": 0}


def test_a_size_that_was_not_measured_is_estimated_from_the_pixels_of_the_nearest_one_that_was() -> None:
    costs = book(small=0.01, large=0.05)
    assert costs.seconds("2K") == pytest.approx(0.05 * 900 / 400)


def test_one_slow_group_means_nothing_and_three_mean_a_slower_size() -> None:
    costs = book(small=0.01)
    run(costs, "0.5K", 0.01)
    costs.measured("0.5K", 0.5)
    assert costs.seconds("0.5K") == 0.01
    run(costs, "0.5K", 0.03, groups=4)
    assert costs.seconds("0.5K") == 0.03


def test_a_size_that_nothing_runs_at_follows_the_speed_of_the_machine_down_and_up() -> None:
    costs = book(small=0.01, large=0.05)
    run(costs, "0.5K", 0.01)
    run(costs, "0.5K", 0.04)
    assert costs.seconds("1K") == pytest.approx(0.2)
    run(costs, "0.5K", 0.01)
    assert costs.seconds("1K") == pytest.approx(0.05)


def test_a_change_of_size_says_nothing_about_the_machine() -> None:
    costs = book(small=0.01, large=0.05)
    run(costs, "0.5K", 0.01)
    # It was predicted to cost 0.05, and costs more; the small one does not for that.
    run(costs, "1K", 0.08, groups=5)
    assert costs.seconds("1K") == 0.08
    assert costs.seconds("0.5K") == 0.01


def test_sizes_that_run_side_by_side_are_known_by_their_own_groups() -> None:
    costs = book(small=0.01, large=0.05)
    for _ in range(20):
        run(costs, "0.5K", 0.03, groups=1)
        run(costs, "1K", 0.06, groups=1)
    assert (costs.seconds("0.5K"), costs.seconds("1K")) == (0.03, 0.06)


def test_what_was_slow_before_the_machine_was_freed_is_not_held_against_a_size_that_is_tried_again() -> None:
    costs = book(small=0.01, large=0.05)
    run(costs, "1K", 0.05)
    run(costs, "1K", 0.4)
    run(costs, "0.5K", 0.08)
    run(costs, "0.5K", 0.01)
    assert costs.seconds("1K") == pytest.approx(0.05)
    costs.measured("1K", 0.05)
    assert costs.seconds("1K") == pytest.approx(0.05)


def test_a_machine_that_gets_faster_right_after_warming_up_does_so_for_every_size() -> None:
    costs = book(small=0.05, large=0.3)
    costs.measured("0.5K", 0.05)
    run(costs, "0.5K", 0.01, groups=3)
    assert costs.seconds("1K") == pytest.approx(0.06)


def test_a_size_that_was_slow_long_ago_may_be_tried_again() -> None:
    now = 0.0
    costs = CostBook(PIXELS, clock=lambda: now)
    costs.begin("0.5K", 0.05)
    run(costs, "1K", 0.3)
    # The machine is freed while the small size comes into use: its first groups do not say so of the other.
    run(costs, "0.5K", 0.01)
    assert costs.seconds("1K") == pytest.approx(0.3)
    now = FORGOTTEN_AFTER_S
    costs.measured("0.5K", 0.01)
    assert costs.seconds("1K") == pytest.approx(0.3)
    now += 1
    costs.measured("0.5K", 0.01)
    assert costs.seconds("1K") == pytest.approx(0.01 * 400 / 100)
    # Tried, it is known again.
    run(costs, "1K", 0.3, groups=3)
    assert costs.seconds("1K") == pytest.approx(0.3)
