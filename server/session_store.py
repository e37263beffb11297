"""Sessions in the database: what each was asked for and when, so that it can be looked up, made again, or gone on with.

A session belongs to the life of the server that runs it. When that life has ended without saying so, the next one
takes its sessions over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ultraflash.server.access import Grant
from ultraflash.server.database import METADATA, READING
from ultraflash.server.ownership import surely_gone

KEEP_REFERENCE_S = 3600.0
"""How long the picture that a session started from stays behind its end."""

StoredState = Literal["live", "ended", "interrupted"]

_number = BigInteger().with_variant(Integer, "sqlite")

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("document", Text, nullable=False),
    Column("key_id", String(32), index=True),
    Index("sessions_by_state", "state", "number"),
)

SESSION_EVENTS = Table(
    "session_events",
    METADATA,
    Column("session_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", Text, nullable=False),
)

SESSION_TABLES = (SESSIONS, SESSION_EVENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A session as it is known without its worker.

    Attributes:
        state: ``live`` while a server runs it, or did when it was last heard of; ``interrupted`` when that server has
            died and its owner did not come back.
        reason: why it ended, as in ``session.done``.
        start: the fields of ``session.start``, with the id of its picture for ``image``.
        opened: what the worker made of them: codec, size, width, height, fps.
        wishes: what its owner wants beside what the log says: size as asked for, bitrate, paused, and changes that
            wait (``pending``).
        frames: made so far, or somewhat more than what is known while it is live.
        generation: of its newest media.
        events: its log; see ``SessionLog``.
        viewer, owner: grants of its tokens.
        key_id: the API key that it was started with; None where none was needed.
        created_at, updated_at: Unix seconds; the latter is set by the store.
    """

    id: str
    state: StoredState
    reason: str | None
    model: str
    seed: int
    start: Mapping[str, Any]
    opened: Mapping[str, Any]
    wishes: Mapping[str, Any]
    frames: int
    generation: int
    events: Sequence[Mapping[str, Any]]
    viewer: Grant
    owner: Grant
    created_at: float
    key_id: str | None = None
    updated_at: float = 0.0

    @property
    def pixels_per_s(self) -> int:
        """What it takes of its key's allowance."""
        return int(self.opened["width"] * self.opened["height"] * self.opened["fps"])

    @property
    def replay(self) -> dict[str, Any]:
        """What it takes to make it again, as in ``session.done``."""
        return {
            "model": self.model,
            "seed": self.seed,
            "fps": self.opened["fps"],
            "frames": self.frames,
            "events": [dict(event) for event in self.events],
            **({} if self.image is None else {"image": self.image}),
        }

    @property
    def image(self) -> str | None:
        """Id of the picture that it started from."""
        return self.start.get("image")


class SessionStore:
    """Blocking; called from threads. ``me`` is the name of this life of this server."""

    def __init__(self, engine: Engine, *, me: str, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READING: True})
        self._me = me
        self._clock = clock

    def as_saved(self, session: StoredSession) -> StoredSession:
        """A session as it will be found when it has been stored, which is about to happen."""
        return replace(session, updated_at=self._clock())

    def save(self, session: StoredSession) -> None:
        """Stores a session of this server, or what has changed of it. Its log only ever grows."""
        document = {name: value for name, value in asdict(session).items() if name not in _IN_COLUMNS}
        values = {
            "state": session.state,
            "owner": self._me,
            "updated_at": self._clock(),
            "document": json.dumps(document),
            "key_id": session.key_id,
        }
        with self._engine.begin() as connection:
            changed = connection.execute(update(SESSIONS).where(SESSIONS.c.id == session.id).values(values))
            if changed.rowcount == 0:
                connection.execute(insert(SESSIONS).values(id=session.id, **values))
            known = select(func.count()).where(SESSION_EVENTS.c.session_id == session.id)
            first = connection.execute(known).scalar_one()
            rows = [
                {"session_id": session.id, "number": number, "data": json.dumps(dict(event))}
                for number, event in enumerate(session.events)
                if number >= first
            ]
            if rows:
                connection.execute(insert(SESSION_EVENTS), rows)

    def get(self, session_id: str) -> StoredSession | None:
        """One session, with its log; None where it is not known, or not any more."""
        # Not everything that a path can hold can be asked for in PostgreSQL.
        if "\0" in session_id:
            return None
        with self._reader.begin() as connection:
            row = (
                connection.execute(select(SESSIONS).where(SESSIONS.c.id == session_id))
                .mappings()
                .one_or_none()
            )
            return None if row is None else _session_of(connection, row)

    def page(
        self, *, state: StoredState | None, limit: int, key_id: str | None = None
    ) -> list[StoredSession]:
        """The newest sessions of a key, or of those who needed none, in this state if one is given."""
        query = select(SESSIONS).where(SESSIONS.c.key_id == key_id)
        query = query.order_by(SESSIONS.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(SESSIONS.c.state == state)
        with self._reader.begin() as connection:
            return [_session_of(connection, row) for row in connection.execute(query).mappings().all()]

    def take_over(self, silent_s: float) -> list[tuple[StoredSession, str]]:
        """Makes the sessions of servers that are gone this one's, as interrupted ones.

        A server is gone when its process surely has ended, or when nothing was heard of a session for ``silent_s``.

        Returns:
            Each of them with the name of the life of a server that it came from.
        """
        live = select(SESSIONS).where(SESSIONS.c.state == "live", SESSIONS.c.owner != self._me)
        taken = []
        with self._engine.begin() as connection:
            for row in connection.execute(live.with_for_update(skip_locked=True)).mappings().all():
                silent = row["updated_at"] < self._clock() - silent_s
                if silent or surely_gone(row["owner"], self._me):
                    mine = {"state": "interrupted", "owner": self._me}
                    connection.execute(update(SESSIONS).where(SESSIONS.c.id == row["id"]).values(mine))
                    taken.append((replace(_session_of(connection, row), state="interrupted"), row["owner"]))
        return taken

    def may_be_fetched(self, ids: Collection[str]) -> set[str]:
        """Those of these sessions whose states another server may just be fetching from where they were left.

        That is one that is still to be taken over, or was by a server that lives. What this server has taken over it
        has fetched already.
        """
        open_ones = select(SESSIONS.c.id, SESSIONS.c.state, SESSIONS.c.owner).where(
            SESSIONS.c.id.in_(ids),
            SESSIONS.c.state.in_(("live", "interrupted")),
            SESSIONS.c.owner != self._me,
        )
        with self._reader.begin() as connection:
            rows = connection.execute(open_ones).mappings().all()
        return {
            row["id"] for row in rows if row["state"] == "live" or not surely_gone(row["owner"], self._me)
        }

    def references_in_use(self) -> set[str]:
        """Ids of what live sessions started from, and those that were over only just, which may be made again."""
        recent = or_(SESSIONS.c.state == "live", SESSIONS.c.updated_at > self._clock() - KEEP_REFERENCE_S)
        query = select(SESSIONS.c.document).where(recent, SESSIONS.c.document.contains('"image": "'))
        with self._reader.begin() as connection:
            documents = [json.loads(text) for text in connection.execute(query).scalars()]
        return {document["start"]["image"] for document in documents if document["start"].get("image")}

    def forget_older(self, keep_s: float) -> int:
        """Forgets sessions that are over and of which nothing was heard for so long; returns how many."""
        old = select(SESSIONS.c.id).where(
            SESSIONS.c.state != "live", SESSIONS.c.updated_at < self._clock() - keep_s
        )
        with self._engine.begin() as connection:
            ids = list(connection.execute(old).scalars())
            connection.execute(delete(SESSION_EVENTS).where(SESSION_EVENTS.c.session_id.in_(ids)))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.id.in_(ids)))
        return len(ids)


_IN_COLUMNS = ("id", "state", "events", "updated_at", "key_id")


def _session_of(connection: Connection, row: RowMapping) -> StoredSession:
    query = select(SESSION_EVENTS.c.data).where(SESSION_EVENTS.c.session_id == row["id"])
    events = connection.execute(query.order_by(SESSION_EVENTS.c.number)).scalars()
    document = json.loads(row["document"])
    return StoredSession(
        **{
            **document,
            "viewer": Grant(**document["viewer"]),
            "owner": Grant(**document["owner"]),
            "id": row["id"],
            "state": row["state"],
            "updated_at": row["updated_at"],
            "key_id": row["key_id"],
            "events": tuple(json.loads(data) for data in events),
        }
    )
