"""The line before the door: first come, first served, and everybody knows where they stand."""

from __future__ import annotations

import pytest

from ultraflash.server.admission import Claim
from ultraflash.server.errors import Busy
from ultraflash.server.protocol import QueueStatus
from ultraflash.server.waiting_line import Applicant, WaitingLine


class Door:
    """Room for some streams, a line before it, and what those in it were told."""

    def __init__(self, room: int, *, max_waiting: int = 3, eta_s: float | None = None) -> None:
        self.room = room
        self.eta_s = eta_s
        self.inside: list[str] = []
        self.told: dict[str, list[tuple[int, int, float | None]]] = {}
        self.line = WaitingLine(
            fits=lambda claim: len(self.inside) < self.room,
            eta=lambda places: None if self.eta_s is None else places * self.eta_s,
            max_waiting=max_waiting,
            retry_after_s=5,
        )

    def come(self, name: str) -> Applicant:
        applicant = Applicant(
            claim=Claim(fps=16, size=None, frames_left=None),
            begin=lambda: self.inside.append(name),
            tell=lambda status: self.hear(name, status),
        )
        self.line.enter(applicant)
        return applicant

    def hear(self, name: str, status: QueueStatus) -> None:
        self.told.setdefault(name, []).append((status.position, status.depth, status.eta_s))


def test_who_finds_room_never_waits() -> None:
    door = Door(2)
    door.come("a")
    door.come("b")
    assert (door.inside, door.told, len(door.line)) == (["a", "b"], {}, 0)


def test_those_who_wait_get_in_by_their_order_and_hear_of_every_change() -> None:
    door = Door(1)
    for name in "abc":
        door.come(name)
    assert door.told == {"b": [(1, 1, None), (1, 2, None)], "c": [(2, 2, None)]}
    door.line.review()
    assert len(door.told["c"]) == 1
    door.room = 2
    door.line.review()
    assert door.inside == ["a", "b"]
    assert door.told["c"][-1] == (1, 1, None)


def test_nobody_overtakes_those_who_wait() -> None:
    door = Door(1)
    door.come("a")
    door.come("b")
    door.room = 2
    door.come("c")
    assert (door.inside, len(door.line)) == (["a", "b"], 1)


def test_who_leaves_the_line_moves_the_others_up() -> None:
    door = Door(1)
    door.come("a")
    b = door.come("b")
    door.come("c")
    door.line.leave(b)
    door.line.leave(b)
    assert door.told["c"][-1] == (1, 1, None)
    door.room = 2
    door.line.review()
    assert door.inside == ["a", "c"]


def test_the_expected_wait_is_told_in_steps_of_five_seconds() -> None:
    door = Door(1, eta_s=12.0)
    door.come("a")
    door.come("b")
    for eta_s in (11.0, 10.5, 9.9):
        door.eta_s = eta_s
        door.line.review()
    assert door.told["b"] == [(1, 1, 15.0), (1, 1, 10.0)]


def test_a_full_line_refuses_and_says_when_to_come_back() -> None:
    door = Door(1, max_waiting=1, eta_s=30.2)
    door.come("a")
    door.come("b")
    with pytest.raises(Busy) as caught:
        door.come("c")
    assert (caught.value.retry_after_s, caught.value.retryable) == (61, True)
    door.eta_s = None
    with pytest.raises(Busy) as caught:
        door.come("c")
    assert caught.value.retry_after_s == 5


def test_a_line_of_no_length_refuses_at_once() -> None:
    door = Door(1, max_waiting=0)
    door.come("a")
    with pytest.raises(Busy):
        door.come("b")


def test_a_closed_line_lets_nobody_in_any_more() -> None:
    door = Door(1)
    door.come("a")
    door.come("b")
    door.line.close()
    door.room = 5
    door.line.review()
    assert door.inside == ["a"]


def test_a_place_that_is_left_at_once_goes_to_the_next_without_a_knot() -> None:
    door = Door(1)
    door.come("a")
    refused: list[str] = []

    def begin() -> None:
        refused.append("b")
        door.line.review()

    door.line.enter(
        Applicant(claim=Claim(fps=16, size=None, frames_left=None), begin=begin, tell=lambda _: None)
    )
    door.come("c")
    door.inside.clear()
    door.line.review()
    assert (refused, door.inside) == (["b"], ["c"])
