"""Who a session is, whichever server runs it: its id, and the tokens that open it."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from typing import Any

from ultraflash.server.access import Grant
from ultraflash.server.pending_changes import PendingChanges
from ultraflash.server.protocol import PromptUpdate, SessionControl, SessionStart, SessionStarted
from ultraflash.server.session_log import SessionLog
from ultraflash.server.session_store import StoredSession, StoredState
from ultraflash.server.stream_position import StreamPosition
from ultraflash.server.worker.messages import StreamOpened

_OPENED = ("codec", "size", "width", "height", "fps")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionIdentity:
    """What stays the same for as long as there is the session.

    Attributes:
        created_at: Unix time in seconds.
        key_id: the API key that it was started with; None where none was needed.
        viewer_grant, owner_grant: recognize the tokens.
        viewer_token, resume_token: known only to the server that gave them out.
    """

    session_id: str
    created_at: float
    key_id: str | None
    viewer_grant: Grant
    owner_grant: Grant
    viewer_token: str | None = None
    resume_token: str | None = None

    @classmethod
    def new(cls, token_s: float, key_id: str | None) -> SessionIdentity:
        """That of a new session of a key, whose viewer token lives so long."""
        viewer_token, viewer_grant = Grant.issue(token_s)
        resume_token, owner_grant = Grant.issue(math.inf)
        return cls(
            session_id=f"session_{secrets.token_hex(12)}",
            created_at=time.time(),
            key_id=key_id,
            viewer_grant=viewer_grant,
            owner_grant=owner_grant,
            viewer_token=viewer_token,
            resume_token=resume_token,
        )

    @classmethod
    def of(cls, stored: StoredSession) -> SessionIdentity:
        """That of a session which another server has begun."""
        return cls(
            session_id=stored.id,
            created_at=stored.created_at,
            key_id=stored.key_id,
            viewer_grant=stored.viewer,
            owner_grant=stored.owner,
        )


def started_event(
    identity: SessionIdentity,
    opened: StreamOpened,
    at: StreamPosition,
    *,
    model: str,
    container: str,
    owns: bool,
) -> SessionStarted:
    """How a session is announced, to its owner with the tokens that open it."""
    return SessionStarted.model_validate(
        {
            "session_id": identity.session_id,
            "codec": opened.codec,
            "container": container,
            "width": opened.width,
            "height": opened.height,
            "fps": opened.fps,
            "seed": at.seed,
            "model": model,
            "viewer_token": identity.viewer_token if owns else None,
            "resume_token": identity.resume_token if owns else None,
        }
    )


def first_position(start: SessionStart) -> StreamPosition:
    """Where a new session begins; a seed is drawn where none was asked for."""
    return StreamPosition(
        prompt=start.prompt,
        asked_size=start.size,
        size=start.size,
        seed=secrets.randbelow(2**53) if start.seed is None else start.seed,
        fps=start.fps,
        max_frames=start.max_frames,
    )


def stored_position(stored: StoredSession) -> StreamPosition:
    """Where a session was when it was stored last."""
    newest: dict[str, Any] = {}
    for event in stored.events:
        newest |= {name: event[name] for name in ("prompt", "size") if name in event}
        if "size" in event:
            newest["sr_share"] = event.get("sr_share", 1.0)
    return StreamPosition(
        prompt=newest["prompt"],
        asked_size=stored.wishes["size"],
        size=newest["size"],
        seed=stored.seed,
        fps=stored.opened["fps"],
        max_frames=stored.start["max_frames"],
        bitrate=stored.wishes["bitrate"],
        paused=stored.wishes["paused"],
        next_index=stored.frames,
        sr_share=newest["sr_share"],
        generation=stored.generation,
    )


def stored_opening(stored: StoredSession) -> StreamOpened:
    """How the worker that is gone has accepted the stream."""
    return StreamOpened(stream_id=stored.id, first_index=stored.frames, restored=False, **stored.opened)


def stored_changes(stored: StoredSession) -> PendingChanges:
    """What its owner has asked for and not seen."""
    pending = PendingChanges()
    kinds: dict[str, type[PromptUpdate] | type[SessionControl]] = {
        "prompt.update": PromptUpdate,
        "session.control": SessionControl,
    }
    for event in stored.wishes["pending"]:
        pending.add(kinds[event["type"]].model_validate(event))
    return pending


def stored_session(
    identity: SessionIdentity,
    start: SessionStart,
    opened: StreamOpened,
    at: StreamPosition,
    log: SessionLog,
    pending: PendingChanges,
    *,
    state: StoredState,
    reason: str | None,
) -> StoredSession:
    """All of a session that can be stored."""
    return StoredSession(
        id=identity.session_id,
        state=state,
        reason=reason,
        model=log.model,
        seed=at.seed,
        start=start.model_dump(mode="json"),
        opened={name: getattr(opened, name) for name in _OPENED},
        wishes={
            "size": at.asked_size,
            "bitrate": at.bitrate,
            "paused": at.paused,
            "pending": [event.model_dump(mode="json") for event in pending],
        },
        frames=at.next_index,
        generation=at.generation,
        events=log.events,
        viewer=identity.viewer_grant,
        owner=identity.owner_grant,
        created_at=identity.created_at,
        key_id=identity.key_id,
    )
