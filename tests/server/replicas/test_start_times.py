"""When a replica that starts is expected to be ready."""

from __future__ import annotations

from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.start_times import StartTimes

ONE, TWO, AGAIN = (Replica(number=number % 2, address=f"127.0.0.1:{number}") for number in range(3))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_start_takes_as_long_as_the_one_before() -> None:
    clock = Clock()
    starts = StartTimes(clock=clock)
    starts.note([ONE, TWO], [])
    assert starts.left_s() is None
    clock.now += 40
    starts.note([TWO], [ONE])
    assert (starts.usual_s, starts.left_s()) == (40.0, 0.0)
    starts.note([], [ONE, TWO])
    assert starts.left_s() is None
    # One life has gone and another one begins; then the worker of the second one goes, and is started again.
    starts.note([AGAIN], [TWO])
    clock.now += 10
    starts.note([AGAIN, TWO], [])
    assert starts.left_s() == 30.0
    clock.now += 35
    starts.note([TWO], [AGAIN])
    assert (starts.usual_s, starts.left_s()) == (45.0, 10.0)
