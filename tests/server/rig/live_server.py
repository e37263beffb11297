"""A server in processes of its own, and a client that speaks its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from ultraflash.server.protocol import HEADER_BYTES, MediaFlags, MediaHeader

PATIENCE_S = 120.0
PATTERN = "pattern_engine:PatternEngine.load"
MAIN = "from ultraflash.server.cli import main; raise SystemExit(main())"


class LiveServer:
    """``ultraflash serve`` on a free port; settings are given as ``stream__max_streams=1``."""

    def __init__(self, folder: Path, *options: str, **settings: object) -> None:
        self._command = [sys.executable, "-c", MAIN, "serve", "--port", "0", *options]
        self.folder = folder
        self.data = folder / "data"
        self._environment = dict(os.environ)
        path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self._environment.update(
            {
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "ULTRAFLASH_ENGINE": PATTERN,
                "ULTRAFLASH_DATA__FOLDER": str(self.data),
                # What streams get shall not depend on how busy the machine is, but where a test is about that.
                "ULTRAFLASH_SIZE": "0.5K",
                "ULTRAFLASH_STREAM__CAPACITY": "1000",
                "ULTRAFLASH_DATA__SNAPSHOTS": str(folder / "snapshots"),
            }
        )
        for name, value in settings.items():
            key = name if name.isupper() else f"ULTRAFLASH_{name.upper()}"
            self._environment[key] = str(value)
        self.address = ""
        self.log = folder / "server.log"

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.log = self.folder / f"server-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        self.wait_for(lambda: "http://" in self.output(), "an address")
        self.address = self.output().split("http://")[1].split("/")[0]

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def output(self) -> str:
        return self.log.read_text()

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: self.get("/readyz")[0] == 200, "readiness")

    def wait_for_metric(self, line: str) -> None:
        """Wait until the metrics hold this line, such as ``ultraflash_ready 1.0``."""
        self.wait_for(lambda: line in self.get("/metrics")[1], line)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET."""
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                status, body = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read().decode()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body

    def worker_ids(self) -> list[int]:
        """Process ids of the server's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    @asynccontextmanager
    async def client(self, path: str = "/v1/stream", **options: Any) -> AsyncIterator[StreamClient]:
        async with websockets.connect(f"ws://{self.address}{path}", max_size=None, **options) as socket:
            yield StreamClient(socket)

    @asynccontextmanager
    async def viewer(
        self, started: dict[str, Any], *, token: str | None = None, transport: str = "webcodecs"
    ) -> AsyncIterator[StreamClient]:
        """Somebody who watches the session that ``session.started`` described."""
        token = started["viewer_token"] if token is None else token
        path = f"/v1/stream/{started['session_id']}?token={token}&transport={transport}"
        async with self.client(path) as viewer:
            viewer.acknowledge = False
            yield viewer

    def sessions(self) -> list[dict[str, Any]]:
        """What ``GET /v1/sessions`` lists."""
        listed: list[dict[str, Any]] = self.get("/v1/sessions")[1]["data"]
        return listed

    def wait_for(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {what} from the server:\n{self.output()}")
            time.sleep(0.05)


class StreamClient:
    """One connection; it keeps what it received and acknowledges frames as they come unless told not to."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.acknowledge = True
        self.events: list[dict[str, Any]] = []
        self.media: list[tuple[MediaHeader, bytes]] = []
        self.order: list[str] = []
        self._waiting: asyncio.Future[str | bytes] | None = None

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def start(self, prompt: str = "a hill", **fields: Any) -> dict[str, Any]:
        await self.send("session.start", prompt=prompt, **fields)
        return await self.until("session.started")

    async def ack(self, header: MediaHeader) -> None:
        await self.send("playback.ack", seq=header.seq, pts_us=header.pts_us, buffered_ms=0, dropped=0)

    async def step(self) -> dict[str, Any] | MediaHeader:
        """Receives one thing."""
        waiting, self._waiting = self._waiting or asyncio.ensure_future(self.socket.recv()), None
        message = await asyncio.wait_for(waiting, PATIENCE_S)
        if isinstance(message, str):
            event: dict[str, Any] = json.loads(message)
            self.events.append(event)
            self.order.append(event["type"])
            return event
        header = MediaHeader.unpack(message)
        self.media.append((header, message[HEADER_BYTES:]))
        self.order.append("init" if MediaFlags.INIT in header.flags else "frame")
        if self.acknowledge and MediaFlags.INIT not in header.flags:
            # The server may have closed after its last frame already.
            with contextlib.suppress(websockets.ConnectionClosed):
                await self.ack(header)
        return header

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Receives up to and including an event of that type with those fields; any other error fails."""
        begin = len(self.events)

        def found() -> bool:
            return len(self.events) > begin and all(
                self.events[-1].get(name) == value for name, value in {"type": kind, **fields}.items()
            )

        await self.step_until(found, f"{kind} {fields}", errors=kind == "error")
        return self.events[-1]

    async def until_frame(self, seq: int) -> None:
        """Receives up to frame ``seq``."""
        await self.step_until(
            lambda: (
                bool(self.media)
                and self.media[-1][0].seq >= seq
                and MediaFlags.INIT not in self.media[-1][0].flags
            ),
            f"frame {seq}",
        )

    async def until_pts(self, pts_us: float) -> None:
        """Receives up to the frame of that time."""
        await self.step_until(lambda: self.frames()[-1][0].pts_us >= pts_us, f"frame at {pts_us} us")

    async def step_until(self, over: Callable[[], bool], what: str, *, errors: bool = False) -> None:
        """Receives until something holds; an error of the server fails unless ``errors``, and so does a long wait,
        whatever else comes meanwhile.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not over():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} among {len(self.frames())} frames and {self.events}")
            got = await self.step()
            assert errors or not isinstance(got, dict) or got["type"] != "error", got

    async def listen(self, seconds: float) -> None:
        """Receives whatever comes in a time."""
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            await self.step_within(rest)

    async def step_within(self, seconds: float) -> None:
        """Receives one thing, if one comes in time."""
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self.socket.recv())
        done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
        if done:
            await self.step()

    async def until_closed(self) -> tuple[int | None, str]:
        """Receives everything up to the close; its code and reason."""
        with contextlib.suppress(websockets.ConnectionClosed):
            await self.step_until(lambda: False, "close", errors=True)
        return self.socket.close_code, self.socket.close_reason or ""

    def frames(self) -> list[tuple[MediaHeader, bytes]]:
        """Media frames without init segments."""
        return [(header, data) for header, data in self.media if MediaFlags.INIT not in header.flags]

    def kinds(self) -> list[str]:
        """Event types in order."""
        return [event["type"] for event in self.events]
