"""The process of the front: its web server, its fleet of replicas, and how both begin and end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn

from ultraflash.server.replicas.autoscaler import Autoscaler
from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.fleet import Fleet
from ultraflash.server.replicas.front import Front
from ultraflash.server.replicas.http_relay import open_client
from ultraflash.server.replicas.replica_settings import shared_settings
from ultraflash.server.serving import CANNOT_SERVE, http_options
from ultraflash.server.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


def run_front(settings: Settings, listener: socket.socket) -> int:
    """Serves with several replicas until stopped. Returns 0, or 2 when no replica can be had.

    Raises ``DataUnusable``.
    """
    settings = shared_settings(settings)
    secret = settings.replicas.secret
    assert secret is not None
    return asyncio.run(FrontProcess(settings, secret).run(listener))


class FrontServer(uvicorn.Server):
    """A web server that lets live sessions end first: the first signal drains, the second one stops."""

    draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.draining or sig == signal.SIGINT:
            self.should_exit = True
        self.draining = True


class FrontProcess:
    """One front while it runs."""

    def __init__(self, settings: Settings, secret: str) -> None:
        self._settings = settings
        self._given_up = False
        self._fleet = Fleet(
            settings,
            on_lost=self._replica_lost,
            on_given_up=self._give_up,
            closing=lambda: self._server.draining,
        )
        self._removing: asyncio.Task[None] | None = None
        self._http = open_client()
        self._directory = Directory(
            self._fleet.running,
            secret=secret,
            complete=lambda: self._fleet.complete,
            next_try_s=lambda: self._fleet.next_try_s,
            retry_after_s=settings.stream.retry_after_s,
            http=self._http,
        )
        front = Front(
            settings,
            self._directory,
            restarts=lambda: self._fleet.restarts,
            missing=lambda: self._fleet.missing,
            resting=lambda: self._fleet.resting,
            closing=lambda: self._server.draining,
        )
        self._server = FrontServer(uvicorn.Config(front.app(), lifespan="off", **http_options(settings)))
        self._scaler = Autoscaler(settings.replicas)

    async def run(self, listener: socket.socket) -> int:
        """Until a signal, or until there is no replica left to be had."""
        for _ in range(self._settings.replicas.count):
            self._fleet.add()
        watching = asyncio.create_task(self._watch())
        try:
            await self._server.serve(sockets=[listener])
        finally:
            watching.cancel()
            await self._fleet.stop()
            await self._http.aclose()
        return CANNOT_SERVE if self._given_up else 0

    async def _watch(self) -> None:
        """Looks at the replicas now and then: there are as many as needed, and when drained the server stops."""
        drained_by: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                seen = await self._directory.look()
                if not self._server.draining:
                    await self._scale()
                    continue
                drained_by = drained_by or loop.time() + self._settings.replicas.drain_s
                live = sum(len(one.state.sessions) for one in seen if one.state is not None)
                if not live or loop.time() >= drained_by:
                    self._server.should_exit = True
            except Exception:
                log.exception("the replicas could not be looked after; trying again")

    async def _scale(self) -> None:
        seen = self._directory.newest
        removing = self._removing is not None and not self._removing.done()
        if removing or not self._fleet.complete:
            return
        # One that rests comes back, and is more than enough then.
        if self._scaler.wants_more(seen) and self._fleet.size < self._settings.replicas.most:
            log.info("replica %d is started, the queue is long", self._fleet.add())
            return
        number = self._scaler.to_be_stopped(seen)
        if number is not None:
            log.info("replica %d is stopped, nobody needs it", number)
            # Ending takes a while, in which the others are looked at.
            self._removing = asyncio.create_task(self._fleet.remove(number))

    async def _replica_lost(self) -> None:
        await self._directory.take_over()

    def _give_up(self) -> None:
        self._given_up = True
        self._server.should_exit = True
