"""Which replica a request is for, by what the replicas say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.state import SECRET_HEADER, STATE_PATH, TAKE_OVER_PATH, ReplicaState

SECRET = "a secret that is long enough"
FREE = ReplicaState(ready=True)

MakeDirectory = Callable[..., Directory]


@pytest.fixture
def asked() -> list[str]:
    """Addresses and paths that were asked for, with the secret."""
    return []


@pytest.fixture
def make_directory(asked: list[str]) -> MakeDirectory:
    """A directory of replicas with these states; None does not answer."""

    def make(
        *states: ReplicaState | None,
        complete: bool = True,
        next_try_s: float | None = None,
        taking_over: asyncio.Event | None = None,
    ) -> Directory:
        replicas = [
            Replica(number=number, address=f"127.0.0.1:{9000 + number}") for number in range(len(states))
        ]

        async def answer(request: httpx.Request) -> httpx.Response:
            assert request.headers[SECRET_HEADER] == SECRET
            asked.append(f"{request.url.port}{request.url.path}")
            if request.url.path == TAKE_OVER_PATH:
                if taking_over is not None:
                    await taking_over.wait()
                return httpx.Response(204)
            assert request.url.path == STATE_PATH
            state = states[request.url.port - 9000]
            if state is None:
                raise httpx.ConnectError("gone")
            return httpx.Response(200, json=state.model_dump(mode="json"))

        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        return Directory(
            lambda: replicas,
            secret=SECRET,
            complete=lambda: complete,
            next_try_s=lambda: next_try_s,
            retry_after_s=5,
            http=http,
        )

    return make


def state(**changes: object) -> ReplicaState:
    return FREE.model_copy(update=changes)


async def chosen(directory: Directory) -> int:
    replica = await directory.for_new_session()
    assert replica is not None
    return replica.number


async def test_a_stream_goes_where_it_begins_soonest(make_directory: MakeDirectory) -> None:
    assert await chosen(make_directory(state(eta_s=None), state(eta_s=20.0), state(eta_s=5.0))) == 2
    assert await chosen(make_directory(state(eta_s=5.0), state(share=0.8, sessions=("a", "b")))) == 1


async def test_among_equals_it_goes_where_most_room_is(make_directory: MakeDirectory) -> None:
    assert await chosen(make_directory(state(share=0.6), state(share=0.4, sessions=("a", "b")))) == 1
    assert await chosen(make_directory(state(sessions=("a",)), FREE)) == 1


async def test_it_goes_nowhere_that_does_not_answer_or_is_not_ready(make_directory: MakeDirectory) -> None:
    assert await chosen(make_directory(None, state(ready=False), state(eta_s=99.0))) == 2
    assert await chosen(make_directory(None, state(ready=False))) == 1
    assert await make_directory().for_new_session() is None


async def test_streams_that_come_together_do_not_all_go_to_one(make_directory: MakeDirectory) -> None:
    directory = make_directory(FREE, FREE, state(share=0.5))
    begun = [await directory.for_new_session(begins=True) for _ in range(4)]
    assert [replica.number for replica in begun if replica is not None] == [0, 1, 2, 0]


async def test_a_client_that_waits_finds_a_place_once_and_elsewhere(make_directory: MakeDirectory) -> None:
    full = state(eta_s=30.0, waiting=1)
    directory = make_directory(full, FREE)
    here = Replica(number=0, address="127.0.0.1:9000")
    there = await directory.free_place(other_than=here)
    assert there == Replica(number=1, address="127.0.0.1:9001")
    assert await directory.free_place(other_than=here) is None
    assert await make_directory(full, FREE).free_place(other_than=there) is None
    for other in (full, state(eta_s=None), state(ready=False), None):
        assert await make_directory(full, other).free_place(other_than=here) is None


async def test_a_session_is_where_it_says_it_is(make_directory: MakeDirectory) -> None:
    directory = make_directory(FREE, state(sessions=("session_1",), job="video_1"))
    owner, worker = await directory.owner_of("session_1"), await directory.worker_on("video_1")
    assert owner == worker == Replica(number=1, address="127.0.0.1:9001")
    assert await directory.owner_of("session_2") is None
    assert await directory.worker_on("video_2") is None


@pytest.mark.parametrize(
    ("states", "complete", "waits"),
    [
        ((FREE, FREE), True, False),
        ((FREE,), False, True),
        ((FREE, None), True, True),
        ((FREE, state(ready=False)), True, False),
    ],
)
async def test_an_unknown_session_is_waited_for_only_while_a_replica_is_missing(
    make_directory: MakeDirectory,
    asked: list[str],
    states: tuple[ReplicaState | None, ...],
    complete: bool,
    waits: bool,
) -> None:
    directory = make_directory(*states, complete=complete)
    assert await directory.owner_of("session_1", patience_s=0.3) is None
    assert (len(asked) > len(states)) == waits


async def test_requests_that_anybody_can_answer_take_turns(make_directory: MakeDirectory) -> None:
    directory = make_directory(FREE, state(ready=False), FREE)
    found = [await directory.any_one() for _ in range(4)]
    assert [replica.number for replica in found if replica is not None] == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("states", "number"),
    [((FREE, FREE), 0), ((state(ready=False), FREE), 0), ((None, FREE), 1), ((None, state(ready=False)), 1)],
)
async def test_what_only_one_remembers_is_asked_of_the_lowest_that_answers(
    make_directory: MakeDirectory, states: tuple[ReplicaState | None, ...], number: int
) -> None:
    first = await make_directory(*states).first()
    assert first is not None
    assert first.number == number


async def test_the_sessions_of_a_lost_replica_go_where_most_room_is(
    make_directory: MakeDirectory, asked: list[str]
) -> None:
    await make_directory(state(share=0.5), FREE, None).take_over()
    assert asked[-1] == f"9001{TAKE_OVER_PATH}"


async def test_who_is_turned_away_comes_back_when_a_queue_or_a_pause_is_over(
    make_directory: MakeDirectory,
) -> None:
    for states, next_try_s, expected in (
        ((), None, 5),
        ((state(eta_s=40.5), state(eta_s=70.0)), None, 41),
        ((state(eta_s=40.5), FREE), None, 5),
        ((state(eta_s=40.5),), 12.0, 12),
        ((None,), 120.0, 120),
        ((), 900.0, 300),
    ):
        directory = make_directory(*states, next_try_s=next_try_s)
        await directory.look()
        assert directory.retry_after_s() == expected, (states, next_try_s)


async def test_nobody_is_told_that_a_session_is_unknown_while_sessions_are_taken_over(
    make_directory: MakeDirectory,
) -> None:
    over = asyncio.Event()
    directory = make_directory(FREE, taking_over=over)
    taking = asyncio.create_task(directory.take_over())
    await asyncio.sleep(0)
    asking = asyncio.create_task(directory.owner_of("session_1", patience_s=30.0))
    await asyncio.sleep(0.6)
    assert not asking.done()
    over.set()
    await taking
    assert await asking is None
