"""Sessions in a database of each kind, which are those of the jobs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from ultraflash.server.access import Grant
from ultraflash.server.database import open_database
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.session_logs import SessionLogs, StoredLogs
from ultraflash.server.session_store import (
    KEEP_REFERENCE_S,
    SESSION_TABLES,
    SESSIONS,
    SessionStore,
    StoredSession,
)

ME = f"{socket.gethostname()}:{os.getpid()}:aa"
# No process has the number 0 to itself, so this one has surely ended.
GONE = f"{socket.gethostname()}:{2**22 + 1}:bb"
ELSEWHERE = "another-host:1:cc"
OpenStore = Callable[[str], SessionStore]


@pytest.fixture
def open_sessions(database_url: str, clock: Any) -> Iterator[OpenStore]:
    """Opens the database as one server or another."""
    engines = []

    def open_(me: str) -> SessionStore:
        engines.append(open_database(database_url, *SESSION_TABLES))
        return SessionStore(engines[-1], me=me, clock=clock)

    yield open_
    for engine in engines:
        engine.dispose()


def session(number: int = 1, **fields: Any) -> StoredSession:
    made = StoredSession(
        id=f"session_{number:024x}",
        state="live",
        reason=None,
        model="pattern",
        seed=2**63 - 1,
        start={"prompt": "ein Hügel", "max_frames": None},
        opened={"codec": "avc1.640028", "size": "0.5K", "width": 224, "height": 128, "fps": 16},
        wishes={"size": "auto", "bitrate": None, "paused": False, "pending": []},
        frames=9,
        generation=1,
        events=({"first_pts_us": 0.0, "group": 0, "prompt": "ein Hügel", "size": "0.5K"},),
        viewer=Grant(digest="a" * 64, expires_at=1e12),
        owner=Grant(digest="b" * 64, expires_at=float("inf")),
        created_at=1.5,
    )
    return replace(made, **fields)


def test_what_is_saved_is_found_again_and_a_log_grows(open_sessions: OpenStore, clock: Any) -> None:
    store = open_sessions(ME)
    first = session()
    store.save(first)
    assert store.get(first.id) == replace(first, updated_at=clock.now)
    change = {"first_pts_us": 5e6, "group": 7, "prompt": "ein See", "transition": "blend", "groups": 4}
    later = replace(first, events=(*first.events, change), frames=100, state="ended", reason="stopped")
    store.save(later)
    store.save(later)
    found = open_sessions(ELSEWHERE).get(first.id)
    assert found == replace(later, updated_at=clock.now)
    assert found is not None
    assert found.replay == {
        "model": "pattern",
        "seed": 2**63 - 1,
        "fps": 16,
        "frames": 100,
        "events": list(later.events),
    }


@pytest.mark.parametrize("unknown", ["session_0", "", "x\0y", "ä" * 300])
def test_an_unknown_one_is_none(open_sessions: OpenStore, unknown: str) -> None:
    assert open_sessions(ME).get(unknown) is None


def test_pages_have_the_newest_first(open_sessions: OpenStore) -> None:
    store = open_sessions(ME)
    for number in range(4):
        store.save(session(number, state="ended" if number % 2 else "live"))
    assert [one.id[-1] for one in store.page(state=None, limit=3)] == ["3", "2", "1"]
    assert [one.id[-1] for one in store.page(state="ended", limit=9)] == ["3", "1"]


def test_the_live_sessions_of_servers_that_are_gone_are_taken_over_once(
    open_sessions: OpenStore, clock: Any
) -> None:
    for number, owner in enumerate((ME, GONE, GONE, ELSEWHERE)):
        open_sessions(owner).save(session(number, state="ended" if number == 2 else "live"))
    mine = open_sessions(ME)
    taken = mine.take_over(60)
    assert [(one.id[-1], one.state, owner) for one, owner in taken] == [("1", "interrupted", GONE)]
    assert mine.take_over(60) == []
    assert [one.id[-1] for one in mine.page(state="interrupted", limit=9)] == ["1"]
    clock.now += 61
    taken = mine.take_over(60)
    assert [(one.id[-1], owner) for one, owner in taken] == [("3", ELSEWHERE)]


def test_states_stay_that_another_server_may_be_fetching(open_sessions: OpenStore) -> None:
    for number, state in enumerate(("live", "live", "ended")):
        open_sessions(GONE).save(session(number, state=state))
    ids = {session(number).id for number in range(4)}
    mine = open_sessions(ME)
    # Before anybody has taken them over, and when a server has that lives; not when that has gone too.
    assert mine.may_be_fetched(ids) == {session(0).id, session(1).id}
    other = open_sessions(ELSEWHERE)
    assert len(other.take_over(-1)) == 2
    assert mine.may_be_fetched(ids) == {session(0).id, session(1).id}
    assert mine.may_be_fetched({session(1).id}) == {session(1).id}
    assert other.may_be_fetched(ids) == set()
    open_sessions(GONE).save(session(3, state="interrupted"))
    assert session(3).id not in mine.may_be_fetched(ids)


def test_what_was_over_long_ago_is_forgotten(open_sessions: OpenStore, clock: Any) -> None:
    store = open_sessions(ME)
    store.save(session(1))
    store.save(session(2, state="ended"))
    clock.now += 100
    store.save(session(3, state="ended"))
    assert store.forget_older(50) == 1
    assert [one.id[-1] for one in store.page(state=None, limit=9)] == ["3", "1"]
    assert store.get(session(2).id) is None
    again = session(2, state="ended")
    store.save(again)
    assert store.get(again.id) == replace(again, updated_at=clock.now)


def test_the_archive_stores_the_newest_version_and_knows_it_at_once(
    open_sessions: OpenStore, clock: Any
) -> None:
    archive = SessionArchive(open_sessions(ME))
    for frames in range(50):
        archive.put(session(frames=frames))
        assert archive.find(session().id).frames == frames
        # Stored or not yet: nobody is told of the year 1970.
        assert archive.find(session().id).updated_at == clock.now
    archive.close()
    found = open_sessions(ME).get(session().id)
    assert found is not None and found.frames == 49


def test_a_log_is_whole_while_its_session_still_waits_to_be_stored(
    open_sessions: OpenStore, database_url: str
) -> None:
    token, owner = Grant.issue(600)
    store = open_sessions(ME)
    store.save(session(owner=owner, frames=0))
    archive = SessionArchive(store)
    logs = SessionLogs(StoredLogs(archive))
    slow = open_database(database_url)
    # A database that is busy with something else keeps the version with the session's end waiting.
    with slow.begin() as writing:
        writing.execute(update(SESSIONS).values(updated_at=0.0))
        archive.put(session(owner=owner, frames=45, state="ended"))
        assert logs.find(session().id, token, None).frames == 45
        stored = store.get(session().id)
        assert stored is not None and stored.frames == 0
    archive.close()
    assert logs.find(session().id, token, None).frames == 45
    slow.dispose()


def test_pictures_of_live_sessions_and_of_those_just_over_are_in_use(
    open_sessions: OpenStore, clock: Any
) -> None:
    store = open_sessions(ME)

    def start(image: str | None) -> dict[str, Any]:
        return {"prompt": 'an "image": "x" of a hill', "max_frames": None, "image": image}

    store.save(session(1, start=start("a" * 64)))
    store.save(session(2, start=start("b" * 64), state="ended"))
    store.save(session(3, start=start(None)))
    assert store.references_in_use() == {"a" * 64, "b" * 64}
    clock.now += KEEP_REFERENCE_S + 1
    assert store.references_in_use() == {"a" * 64}
