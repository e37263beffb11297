"""The policy of sizes, by a clock that only the test moves."""

from __future__ import annotations

from dataclasses import dataclass

from ultraflash.server.worker.quality import (
    LATE_WITHIN_S,
    PROVEN_AFTER_S,
    QualityPolicy,
    SizeStep,
    StreamLoad,
    largest_that_fits,
)

TICK_S = 0.25
RAISE_AFTER_S = 10.0


@dataclass
class Stream:
    """Does what the policy says."""

    key: str
    loads: tuple[float, ...]
    place: int
    adapts: bool = True
    misses: int = 0


class Device:
    """Streams, a speed that can change, and a record of the steps."""

    def __init__(self, *streams: Stream) -> None:
        self.now = 0.0
        self.slowness = 1.0
        self.streams = list(streams)
        self.steps: list[tuple[float, SizeStep]] = []
        self.policy = QualityPolicy(raise_after_s=RAISE_AFTER_S, clock=lambda: self.now)

    def run(self, seconds: float, *, late_each_s: float | None = None) -> None:
        end, late_at = self.now + seconds, self.now
        while self.now < end:
            self.now += TICK_S
            if late_each_s is not None and self.now - late_at >= late_each_s:
                late_at = self.now
                for stream in self.streams:
                    stream.misses += 1
            step = self.policy.step([self.demand(stream) for stream in self.streams])
            if step is not None:
                self.steps.append((self.now, step))
                next(stream for stream in self.streams if stream.key == step.key).place = step.place

    def demand(self, stream: Stream) -> StreamLoad:
        loads = tuple(load * self.slowness for load in stream.loads)
        return StreamLoad(
            key=stream.key, loads=loads, place=stream.place, adapts=stream.adapts, misses=stream.misses
        )

    def said(self) -> list[tuple[str, int, str]]:
        return [(step.key, step.place, step.reason) for _, step in self.steps]


def test_the_largest_size_that_fits_beside_the_others_is_chosen_and_else_the_smallest() -> None:
    loads = (0.2, 0.5, 1.2)
    assert [largest_that_fits(loads, taken) for taken in (0, 0.3, 0.5, 5)] == [1, 1, 0, 0]


def test_a_load_that_is_known_not_to_fit_steps_down_before_any_frame_is_late() -> None:
    device = Device(Stream("a", (0.2, 0.6), 1))
    device.run(30)
    assert device.steps == []
    device.streams.append(Stream("b", (0.2, 0.6), 1))
    device.run(1)
    assert device.said() == [("a", 0, "overload")]
    assert device.streams[0].misses == 0


def test_a_step_goes_past_sizes_that_would_not_fit_either() -> None:
    device = Device(Stream("a", (0.3, 0.9, 2.0), 2))
    device.run(1)
    assert device.said() == [("a", 0, "overload")]


def test_frames_that_are_late_although_everything_should_fit_step_down_by_one() -> None:
    device = Device(Stream("a", (0.1, 0.2, 0.4), 2))
    device.run(4, late_each_s=1)
    assert device.said() == [("a", 1, "overload")]


def test_a_late_frame_now_and_then_changes_nothing() -> None:
    device = Device(Stream("a", (0.1, 0.2, 0.4), 2))
    device.run(120, late_each_s=LATE_WITHIN_S * 0.6)
    assert device.steps == []


def test_the_dearest_stream_yields_and_one_that_asked_for_its_size_never_does() -> None:
    device = Device(
        Stream("named", (0.7,), 0, adapts=False),
        Stream("small", (0.1, 0.2), 1),
        Stream("large", (0.1, 0.3), 1),
    )
    device.run(1)
    assert device.said() == [("large", 0, "overload")]
    assert sum(stream.loads[stream.place] for stream in device.streams) <= 1


def test_where_nobody_may_yield_nothing_happens() -> None:
    device = Device(Stream("named", (1.7,), 0, adapts=False), Stream("smallest", (0.3, 0.9), 0))
    device.run(60, late_each_s=1)
    assert device.steps == []


def test_sizes_come_back_when_the_machine_is_fast_again_but_not_at_once() -> None:
    device = Device(Stream("a", (0.2, 0.6), 1))
    device.slowness = 2.0
    device.run(20)
    assert device.said() == [("a", 0, "overload")]
    device.slowness, freed_at = 1.0, device.now
    device.run(RAISE_AFTER_S * 2)
    assert device.said()[1:] == [("a", 1, "recovered")]
    assert RAISE_AFTER_S <= device.steps[1][0] - freed_at <= RAISE_AFTER_S + 2 * TICK_S


def test_a_size_that_would_only_just_fit_is_not_gone_back_to() -> None:
    device = Device(Stream("a", (0.2, 0.6), 0))
    device.slowness = 1.5
    device.run(600)
    assert device.steps == []


def test_sizes_come_back_one_stream_and_one_size_at_a_time() -> None:
    device = Device(Stream("a", (0.1, 0.2, 0.4), 0), Stream("b", (0.1, 0.2, 0.4), 0))
    device.run(60)
    assert [(key, place) for key, place, _ in device.said()] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    gaps = [later[0] - earlier[0] for earlier, later in zip(device.steps, device.steps[1:], strict=False)]
    assert min(gaps) >= RAISE_AFTER_S


def test_a_machine_whose_speed_keeps_changing_makes_no_size_swing() -> None:
    device = Device(Stream("a", (0.2, 0.6), 1))
    for _ in range(60):
        device.slowness = 2.0
        device.run(15)
        device.slowness = 1.0
        device.run(15)
    assert len(device.steps) <= 3


def test_a_size_that_is_late_although_it_should_fit_is_tried_ever_more_rarely() -> None:
    device = Device(Stream("a", (0.2, 0.6), 0))
    for _ in range(1200):
        device.run(3, late_each_s=1 if device.streams[0].place == 1 else None)
    tries = [at for at, step in device.steps if step.reason == "recovered"]
    waits = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert 5 <= len(tries) <= 16
    assert all(later > 0.9 * earlier for earlier, later in zip(waits, waits[1:], strict=False))
    assert waits[-1] > 10 * waits[0]


def test_the_time_between_tries_is_short_again_once_a_size_has_held() -> None:
    device = Device(Stream("a", (0.2, 0.6), 1))
    for _ in range(3):
        device.slowness = 2.0
        device.run(2)
        device.slowness = 1.0
        device.run(2 * RAISE_AFTER_S)
    device.run(500)
    device.run(PROVEN_AFTER_S)
    steps = len(device.steps)
    device.slowness = 2.0
    device.run(2)
    device.slowness = 1.0
    device.run(RAISE_AFTER_S + 1)
    assert [step.reason for _, step in device.steps[steps:]] == ["overload", "recovered"]
