"""Tickets: addresses that open one thing for a while, where a browser can send no key: a video element, a download.

They are held in memory, so they are of one server and of one life of it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from ultraflash.server.errors import InvalidField, Unauthorized
from ultraflash.server.keys.keyring import Keyring
from ultraflash.server.keys.records import Caller
from ultraflash.server.keys.secret import digest_of

MAX_TICKETS = 10_000
_BYTES = 24
_PATHS = re.compile(r"/v1/videos/[A-Za-z0-9_]+/(content|events)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What one opens, for whom, until which Unix time in seconds."""

    path: str
    caller: Caller
    expires_at: float


class Tickets:
    """Those that a server has given out; beyond a number the oldest are worth nothing."""

    def __init__(
        self, keyring: Keyring, *, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._keyring = keyring
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()

    def issue(self, path: str, caller: Caller) -> tuple[str, Ticket]:
        """A new ticket for that path: its text and what it is good for. Raises ``InvalidField``."""
        if not _PATHS.fullmatch(path):
            raise InvalidField("A ticket is for /v1/videos/ID/content or /v1/videos/ID/events.", param="path")
        text = secrets.token_urlsafe(_BYTES)
        ticket = Ticket(path=path, caller=caller, expires_at=self._clock() + self._lifetime_s)
        self._tickets[digest_of(text)] = ticket
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)
        return text, ticket

    async def redeem(self, text: str, path: str) -> Caller:
        """Who the ticket was given to. Raises ``Unauthorized`` unless it is in time, for this, and its key active."""
        ticket = self._tickets.get(digest_of(text))
        if ticket is None or ticket.path != path or ticket.expires_at <= self._clock():
            raise Unauthorized("This ticket is for something else, or its time is over.", param="ticket")
        key_id = ticket.caller.key_id
        if key_id is None:
            # Given out while no key was needed.
            return await self._keyring.caller(None)
        if not await run_in_threadpool(self._keyring.store.still_active, {key_id}):
            raise Unauthorized("The key behind this ticket has expired or was revoked.", param="ticket")
        return ticket.caller
