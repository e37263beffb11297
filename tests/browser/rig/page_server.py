"""``ultraflash serve`` in a process of its own, on a port that stays the same over restarts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

READY_SECONDS = 300
STOP_SECONDS = 60
SERVE = "import sys; from ultraflash.server.cli import main; sys.exit(main())"
# Of the tests of the server: quick to start, and quick at making frames.
PATTERNS = "pattern_engine:PatternEngine.load"
PATTERNS_FOLDER = Path(__file__).resolve().parents[2] / "server" / "rig"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class PageServer:
    """A server that serves the page.

    Attributes:
        patterns: whether it has the engine that draws patterns instead of ``mini``.
        settings: further ones, as environment variables.
    """

    folder: Path
    patterns: bool
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    def launch(self) -> None:
        """Start it, without waiting until it is ready."""
        environment = {**os.environ, "ULTRAFLASH_DATA__FOLDER": str(self.folder / "data")}
        # What pages get shall not depend on how busy the machine is, but where a test is about that.
        environment["ULTRAFLASH_STREAM__CAPACITY"] = "1000"
        environment["ULTRAFLASH_SIZE"] = "0.5K"
        if self.patterns:
            path = [str(PATTERNS_FOLDER), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
            environment["ULTRAFLASH_ENGINE"] = PATTERNS
        environment.update(self.settings)
        command = [sys.executable, "-c", SERVE, "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"The server ended early:\n{self.log.read_text()[-4000:]}")
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=30).close()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
            else:
                return
        raise AssertionError(
            f"The server was not ready in {READY_SECONDS} s:\n{self.log.read_text()[-4000:]}"
        )

    def worker_ids(self) -> list[int]:
        """Process ids of the server's children."""
        assert self.process is not None
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
