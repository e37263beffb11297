"""Stages are timed by the device that works on them, and nothing waits for their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ultraflash.models.cascade import Cascade
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.preset import Preset
from ultraflash.models.stage_clock import StageClock

CPU = torch.device("cpu")


class Lagging:
    """A device that is so many instants behind the calls that feed it, each a second after the one before."""

    def __init__(self) -> None:
        self.given = 0
        self.done = 0

    def __call__(self, device: torch.device) -> LaggingInstant:
        self.given += 1
        return LaggingInstant(self, self.given)


class LaggingInstant:
    def __init__(self, device: Lagging, number: int) -> None:
        self.device = device
        self.number = number

    def passed(self) -> bool:
        return self.device.done >= self.number

    def wait(self) -> None:
        self.device.done = max(self.device.done, self.number)

    def seconds_until(self, later: LaggingInstant) -> float:
        assert self.passed() and later.passed()
        return float(later.number - self.number)


def test_on_a_cpu_a_stage_takes_as_long_as_its_block_and_is_read_at_once() -> None:
    clock = StageClock(CPU)
    for _ in range(2):
        with clock.measure("base"):
            time.sleep(0.02)
    with clock.measure("sr"):
        pass
    seconds = clock.read()
    assert list(seconds) == ["base", "sr"]
    assert 0.04 <= seconds["base"] < 1.0
    assert seconds["sr"] < 0.02
    assert clock.read() == {}


def test_a_stage_that_fails_is_counted_too() -> None:
    clock = StageClock(CPU)
    with pytest.raises(ValueError, match="on purpose"), clock.measure("base"):
        raise ValueError("on purpose")
    assert set(clock.read()) == {"base"}


def test_what_the_device_has_not_come_to_is_counted_at_a_later_reading() -> None:
    device = Lagging()
    clock = StageClock(CPU, device)
    with clock.measure("base"), clock.measure("sr"):
        pass
    assert clock.read() == {}
    device.done = 3  # the inner block: it began second and ended third
    assert clock.read() == {"sr": 1.0}
    device.done = 4
    assert clock.read() == {"base": 3.0}
    assert clock.read() == {}


def test_a_stage_whose_result_is_on_the_host_is_not_left_to_a_later_reading() -> None:
    clock = StageClock(CPU, Lagging())
    with clock.measure("base"):
        pass
    with clock.measure("decode", on_host=True):
        pass
    assert clock.read() == {"base": 1.0, "decode": 1.0}


def test_the_stages_of_a_group_take_about_as_long_as_the_group(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=1)
    cascade.next_group(state)
    start = time.perf_counter()
    cascade.next_group(state)
    taken = time.perf_counter() - start
    assert 0.5 * taken < sum(state.stage_seconds.values()) <= taken


def test_frames_on_the_host_leave_nothing_before_them_unread(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=1)
    state.clock = StageClock(CPU, Lagging())
    cascade.next_group(state)
    assert set(state.stage_seconds) == {"base", "upsample", "sr", "decode"}


def test_a_base_that_is_still_at_work_ahead_is_counted_with_the_next_group(
    build: Callable[..., Cascade], preset: Preset
) -> None:
    cascade = build(replace(preset, execution=ExecutionConfig(overlap=True)))
    state = cascade.open("a calm sea", seed=1)
    for _ in range(2):
        cascade.next_group(state)
    state.clock = StageClock(CPU, Lagging())
    cascade.next_group(state)
    assert set(state.stage_seconds) == {"upsample", "sr", "decode"}
    cascade.next_group(state)
    assert set(state.stage_seconds) == {"base", "upsample", "sr", "decode"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_on_a_gpu_a_stage_lasts_as_long_as_the_gpu_works_and_reading_does_not_wait() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    clock = StageClock(device)
    start = time.perf_counter()
    with clock.measure("base"):
        for _ in range(20):
            matrix @ matrix
    launched = time.perf_counter() - start
    assert clock.read() == {}
    assert time.perf_counter() - start < 2 * launched + 0.01
    torch.cuda.synchronize()
    taken = time.perf_counter() - start
    assert launched < clock.read()["base"] <= taken
