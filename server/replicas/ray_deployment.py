"""The same servers as a Ray Serve application: a front as its ingress, and one replica for each GPU.

``serve run ultraflash.server.replicas.ray_deployment:build preset=mini``; the arguments are settings by their dotted
names, ``config`` names a file. Sessions are relayed to the replica that runs them, as by ``ultraflash serve
--replicas``; Ray starts the replicas, replaces them, and decides by ``queue_policy`` how many there are.

Run with Ray Serve 2.60 on one node with CPU replicas, not yet on several machines or with GPUs.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from ultraflash.models.errors import BadConfig
from ultraflash.server.keys.store import any_keys
from ultraflash.server.listen import listening_socket
from ultraflash.server.replicas.autoscaler import HOLD_S, queue_eta_s
from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.fleet import replica_command
from ultraflash.server.replicas.front import Front
from ultraflash.server.replicas.http_relay import open_client
from ultraflash.server.replicas.replica import Replica, Seen
from ultraflash.server.replicas.replica_settings import shared_settings
from ultraflash.server.settings import Settings, check_binding, load_settings

log = logging.getLogger(__name__)

EVERYWHERE = "0.0.0.0"
LOOK_EVERY_S = 1.0
# A replica reports at each check of its health; one that has not for so long is not sent anything.
SILENT_AFTER_S = 5.0
STOP_WAIT_S = 30.0


def build(args: Mapping[str, str]) -> Any:
    """The application, as ``serve run`` and ``serve deploy`` want it. Raises ``BadConfig`` or ``UnsafeBinding``.

    Args:
        args: settings by their dotted names; ``config``, a file of settings; ``gpus``, of each replica (default 0).
    """
    options = dict(args)
    file, gpus = options.pop("config", None), float(options.pop("gpus", 0))
    settings = load_settings(None if file is None else Path(file), options)
    if settings.data.database is None and settings.replicas.with_front:
        raise BadConfig(
            "Replicas on several machines share a database: set data.database to postgresql+psycopg://USER@HOST/NAME, "
            "and data.artifacts to a place that all of them reach, such as s3://bucket/videos.",
            param="data.database",
        )
    # Ray's proxies, and replicas for the front, listen beyond their machines.
    http = settings.http.model_copy(update={"host": EVERYWHERE})
    settings = shared_settings(settings.model_copy(update={"http": http}))
    check_binding(http, has_keys=any_keys(settings.data.database_url, None))
    replicas, document = settings.replicas, settings.model_dump_json()
    scaling = {
        "min_replicas": replicas.least,
        "initial_replicas": replicas.count,
        "max_replicas": replicas.most,
        "upscale_delay_s": HOLD_S,
        "downscale_delay_s": replicas.scale_down_idle_s,
        "policy": {"policy_function": f"{__name__}:queue_policy"},
    }
    book = serve.deployment(Book).options(name="book", num_replicas=1).bind()
    server = (
        serve.deployment(Server)
        .options(
            name="server",
            autoscaling_config=scaling,
            ray_actor_options={"num_gpus": gpus},
            health_check_period_s=1,
            graceful_shutdown_timeout_s=STOP_WAIT_S,
        )
        .bind(document, book)
    )
    front = serve.deployment(serve.ingress()(Ingress)).options(name="front", max_ongoing_requests=10_000)
    return front.bind(document, book, server)


def queue_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """How many replicas there should be, by what they have measured: more for a long queue, fewer when all are idle.

    Ray chooses which one goes, so none goes while any of them has a stream or a video.
    """
    measured = context.aggregated_metrics
    now = context.target_num_replicas
    eta_s = max(measured.get("queue_eta_s", {}).values(), default=0.0)
    busy = max(measured.get("busy", {}).values(), default=1.0)
    limit_s = max(measured.get("scale_up_eta_s", {}).values(), default=float("inf"))
    if eta_s > limit_s and context.current_num_replicas >= now:
        return now + 1, {}
    return (now if busy else now - 1), {}


class Book:
    """The addresses of all replicas, as they report them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._heard_at: dict[str, float] = {}

    async def heard(self, address: str) -> None:
        """A replica lives."""
        self._heard_at[address] = time.monotonic()
        if address not in self._numbers:
            taken = {self._numbers[other] for other in self._living()}
            self._numbers[address] = next(number for number in range(10**6) if number not in taken)

    async def left(self, address: str) -> None:
        """A replica is gone."""
        self._heard_at.pop(address, None)
        self._numbers.pop(address, None)

    async def replicas(self) -> list[tuple[int, str]]:
        """Number and address of those that live."""
        return sorted((self._numbers[address], address) for address in self._living())

    def _living(self) -> list[str]:
        old = time.monotonic() - SILENT_AFTER_S
        return [
            address
            for address, heard_at in self._heard_at.items()
            if heard_at > old and address in self._numbers
        ]


class Server:
    """One replica: a whole server in a process of its own, on the machine of this actor."""

    def __init__(self, document: str, book: Any) -> None:
        self._settings = Settings.model_validate_json(document)
        self._book = book
        self._begun = 0
        with listening_socket(ray.util.get_node_ip_address(), 0) as listener:
            host, port = listener.getsockname()[:2]
            self._process = subprocess.Popen(
                replica_command(listener.fileno()),
                stdin=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        self._replica = Replica(number=0, address=f"{host}:{port}")
        assert self._process.stdin is not None
        self._process.stdin.write(document.encode() + b"\n")
        self._process.stdin.flush()
        secret = self._settings.replicas.secret
        assert secret is not None
        self._directory = Directory(
            lambda: [self._replica],
            secret=secret,
            complete=lambda: True,
            next_try_s=lambda: None,
            retry_after_s=self._settings.stream.retry_after_s,
            http=open_client(),
        )

    async def check_health(self) -> None:
        """Ray asks now and then, and replaces this replica when it raises."""
        if self._process.poll() is not None:
            await self._book.left.remote(self._replica.address)
            raise RuntimeError(f"the server of {self._replica.address} has ended")
        await self._book.heard.remote(self._replica.address)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``queue_policy`` goes by."""
        seen: Sequence[Seen] = await self._directory.look()
        state = seen[0].state
        # What has come and gone since it was last asked counts too.
        begun, self._begun = self._begun, self._begun if state is None else state.begun
        idle = state is not None and state.idle and not state.queued and state.begun == begun
        return {
            "queue_eta_s": min(queue_eta_s(seen), 1e6),
            "busy": float(not idle),
            "scale_up_eta_s": self._settings.replicas.scale_up_eta_s,
        }

    def __del__(self) -> None:
        """Ray's way to say that this replica is to end: what it works on goes back into the queue."""
        self._process.terminate()
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Ingress:
    """The front: it relays what Ray's proxies bring to the replica that it is for."""

    def __init__(self, document: str, book: Any, server: Any) -> None:
        self._settings = Settings.model_validate_json(document)
        self._book = book
        # Held so that Ray deploys the replicas with the front; they are spoken to by their addresses.
        self._server = server
        self._replicas: list[Replica] = []
        self._losses = 0
        self._looking: asyncio.Task[None] | None = None
        secret = self._settings.replicas.secret
        assert secret is not None
        self._directory = Directory(
            lambda: self._replicas,
            secret=secret,
            complete=self._complete,
            # Ray starts replicas, and says nothing about when.
            next_try_s=lambda: None,
            retry_after_s=self._settings.stream.retry_after_s,
            http=open_client(),
        )

    def __serve_build_asgi_app__(self) -> Any:
        """The app; Ray runs its lifespan on the loop that it serves on."""
        front = Front(
            self._settings,
            self._directory,
            restarts=lambda: self._losses,
            missing=lambda: max(0, self._settings.replicas.least - len(self._replicas)),
            resting=dict,
            closing=lambda: False,
        ).app()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if self._looking is None:
                self._looking = asyncio.create_task(self._keep_looking())
            await front(scope, receive, send)

        return app

    def _complete(self) -> bool:
        return len(self._replicas) >= self._settings.replicas.least

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look()
            except RayError as error:
                # The book is being replaced, or its machine is away: those that are known go on.
                log.warning("the replicas could not be looked up; trying again: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        found = [
            Replica(number=number, address=address) for number, address in await self._book.replicas.remote()
        ]
        lost = [replica for replica in self._replicas if replica not in found]
        self._replicas = found
        if lost:
            self._losses += len(lost)
            await self._directory.take_over()
