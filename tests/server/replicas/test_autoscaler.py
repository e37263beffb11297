"""When there is one replica more, and when one less."""

from __future__ import annotations

import pytest

from ultraflash.server.replicas.autoscaler import HOLD_S, Autoscaler, queue_eta_s
from ultraflash.server.replicas.replica import Replica, Seen
from ultraflash.server.replicas.state import ReplicaState
from ultraflash.server.settings import ReplicaSettings

SETTINGS = ReplicaSettings(count=2, min=1, max=3, scale_up_eta_s=10, scale_down_idle_s=60)
BUSY = ReplicaState(ready=True, sessions=("session_1",), eta_s=30.0)
FREE = ReplicaState(ready=True)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scaler(clock: Clock) -> Autoscaler:
    return Autoscaler(SETTINGS, clock=clock)


def seen(*states: ReplicaState | None) -> list[Seen]:
    return [
        Seen(replica=Replica(number=number, address=f"127.0.0.1:{number}"), state=state)
        for number, state in enumerate(states)
    ]


def test_the_queue_is_as_long_as_it_is_where_it_is_shortest() -> None:
    assert queue_eta_s(seen(BUSY, FREE)) == 0.0
    assert queue_eta_s(seen(BUSY, BUSY.model_copy(update={"eta_s": 12.0}))) == 12.0
    assert queue_eta_s(seen(BUSY.model_copy(update={"eta_s": None}))) == float("inf")
    assert queue_eta_s(seen(None)) == 0.0


def test_videos_count_by_what_all_replicas_together_need_for_them() -> None:
    queue = {"queued": 8, "jobs_eta_s": 100.0}
    assert queue_eta_s(seen(*[FREE.model_copy(update=queue)] * 2)) == 50.0
    assert queue_eta_s(seen(*[FREE.model_copy(update={**queue, "queued": 2})] * 2)) == 0.0
    assert queue_eta_s(seen(FREE.model_copy(update={"queued": 8, "jobs_eta_s": None}))) == 0.0


def test_a_long_queue_starts_one_more_when_it_stays_long(scaler: Autoscaler, clock: Clock) -> None:
    assert not scaler.wants_more(seen(BUSY, BUSY))
    clock.now += HOLD_S / 2
    assert not scaler.wants_more(seen(BUSY, FREE))
    clock.now += HOLD_S
    assert not scaler.wants_more(seen(BUSY, BUSY))
    clock.now += HOLD_S
    assert scaler.wants_more(seen(BUSY, BUSY))
    assert not scaler.wants_more(seen(BUSY, BUSY))


def test_no_more_are_started_than_there_may_be_nor_while_one_is_starting(
    scaler: Autoscaler, clock: Clock
) -> None:
    starting = ReplicaState(ready=False)
    for states in ((BUSY, BUSY, BUSY), (BUSY, BUSY, starting), (BUSY, None)):
        scaler.wants_more(seen(*states))
        clock.now += 10 * HOLD_S
        assert not scaler.wants_more(seen(*states))


def test_the_highest_idle_one_is_stopped_when_nobody_has_needed_it_for_long(
    scaler: Autoscaler, clock: Clock
) -> None:
    assert scaler.to_be_stopped(seen(FREE, BUSY, FREE)) is None
    clock.now += 59
    assert scaler.to_be_stopped(seen(FREE, BUSY, FREE)) is None
    clock.now += 1
    assert scaler.to_be_stopped(seen(FREE, BUSY, FREE)) == 2


def test_one_that_was_needed_in_between_and_the_last_ones_stay(scaler: Autoscaler, clock: Clock) -> None:
    for states in ((BUSY, FREE), (BUSY, BUSY), (BUSY, FREE)):
        assert scaler.to_be_stopped(seen(*states)) is None
        clock.now += 50
    scaler.to_be_stopped(seen(FREE))
    clock.now += 100
    assert scaler.to_be_stopped(seen(FREE)) is None


def test_one_that_was_needed_between_two_looks_was_not_idle(scaler: Autoscaler, clock: Clock) -> None:
    for begun in (0, 1, 1):
        assert scaler.to_be_stopped(seen(BUSY, FREE.model_copy(update={"begun": begun}))) is None
        clock.now += 50
    assert scaler.to_be_stopped(seen(BUSY, FREE.model_copy(update={"begun": 1}))) == 1


def test_a_new_life_of_a_replica_has_not_been_idle_for_as_long_as_the_one_before(
    scaler: Autoscaler, clock: Clock
) -> None:
    assert scaler.to_be_stopped(seen(BUSY, FREE)) is None
    clock.now += 59
    again = Seen(replica=Replica(number=1, address="127.0.0.1:99"), state=FREE)
    assert scaler.to_be_stopped([*seen(BUSY), again]) is None
    clock.now += 59
    assert scaler.to_be_stopped([*seen(BUSY), again]) is None
    clock.now += 1
    assert scaler.to_be_stopped([*seen(BUSY), again]) == 1


@pytest.mark.parametrize("needed", [{"job": "video_1"}, {"waiting": 1}, {"queued": 1}, {"sessions": ("s",)}])
def test_nobody_is_stopped_who_is_needed(scaler: Autoscaler, clock: Clock, needed: dict[str, object]) -> None:
    for _ in range(2):
        assert scaler.to_be_stopped(seen(BUSY, FREE.model_copy(update=needed))) is None
        clock.now += 100


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="min must not exceed count"):
        ReplicaSettings(count=2, max=1)
    assert ReplicaSettings(count=1, max=2).with_front
    assert not ReplicaSettings().with_front
