"""When a replica that starts is expected to be ready."""

from __future__ import annotations

from collections.abc import Collection

from ultraflash.server.replicas.replica import Replica, Seen
from ultraflash.server.replicas.start_times import StartTimes
from ultraflash.server.replicas.state import ReplicaState

STARTING, READY = ReplicaState(ready=False, stage="loading"), ReplicaState(ready=True, stage="ready")
ONE, TWO, AGAIN = (Replica(number=number % 2, address=f"127.0.0.1:{number}") for number in range(3))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(
    starting: Collection[Replica], ready: Collection[Replica], silent: Collection[Replica] = ()
) -> list[Seen]:
    states = {STARTING: starting, READY: ready, None: silent}
    return [Seen(replica=replica, state=state) for state, found in states.items() for replica in found]


def test_a_start_takes_as_long_as_the_one_before() -> None:
    clock = Clock()
    starts = StartTimes(clock=clock)
    starts.note(seen([ONE, TWO], []))
    assert starts.left_s() is None
    clock.now += 40
    starts.note(seen([TWO], [ONE]))
    assert (starts.usual_s, starts.left_s()) == (40.0, 0.0)
    starts.note(seen([], [ONE, TWO]))
    assert starts.left_s() is None
    # One life has gone and another one begins; then the worker of the second one goes, and is started again.
    starts.note(seen([AGAIN], [TWO]))
    clock.now += 10
    starts.note(seen([AGAIN, TWO], []))
    assert starts.left_s() == 30.0
    clock.now += 35
    starts.note(seen([TWO], [AGAIN]))
    assert (starts.usual_s, starts.left_s()) == (45.0, 10.0)


def test_one_that_is_too_busy_to_answer_does_not_start() -> None:
    clock = Clock()
    starts = StartTimes(clock=clock)
    # Not listening yet, then loading: that is its start.
    for silent, starting in ((ONE,), ()), ((), (ONE,)):
        starts.note(seen(starting, [], silent))
        clock.now += 20
    starts.note(seen([], [ONE]))
    for _ in range(2):
        clock.now += 1
        starts.note(seen([], [], [ONE]))
        assert starts.left_s() is None
    clock.now += 1
    starts.note(seen([], [ONE]))
    assert starts.usual_s == 40.0
