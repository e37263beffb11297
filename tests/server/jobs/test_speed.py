"""The measured speed of jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ultraflash.server.jobs.records import Order
from ultraflash.server.jobs.speed import JobSpeed


def test_speed_is_told_once_measured_and_follows_what_comes(make_order: Callable[..., Order]) -> None:
    now = [0.0]
    speed, order = JobSpeed(clock=lambda: now[0]), make_order()
    pixels = order.width * order.height
    speed.started()
    assert speed.seconds_for(pixels) is None
    now[0] = 2.0
    speed.progressed(order, 10)
    assert speed.seconds_for(50 * pixels) == pytest.approx(10)
    for _ in range(40):
        now[0] += 1.0
        speed.progressed(order, 10)
    assert speed.seconds_for(50 * pixels) == pytest.approx(5, rel=0.01)
    speed.progressed(order, 0)
    assert speed.seconds_for(50 * pixels) == pytest.approx(5, rel=0.01)
