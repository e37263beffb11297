"""Firefox without a driver in between: it speaks WebDriver BiDi itself, over a WebSocket."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

PATIENCE_SECONDS = 180
PREFERENCES = """
user_pref("media.autoplay.default", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.normandy.enabled", false);
"""


@dataclass(kw_only=True)
class Firefox:
    """One tab of a browser without a window."""

    socket: ClientConnection
    screenshots: Path
    tab: str = ""
    errors: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def begin(self) -> None:
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        self.tab = self.call("browsingContext.getTree")["contexts"][0]["context"]
        self.call("browsingContext.setViewport", context=self.tab, viewport={"width": 1280, "height": 800})

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its result."""
        number = next(self._numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv(timeout=PATIENCE_SECONDS))
            if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                self.errors.append(said["params"]["text"])
            if said.get("id") == number:
                assert said["type"] == "success", said
                return dict(said["result"])

    def visit(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self.tab, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression about the page."""
        got = self.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self.tab},
            awaitPromise=True,
        )
        assert got["type"] == "success", got
        return json.loads(got["result"]["value"])

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression about the page holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.evaluate(condition):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{condition} did not become true; {self.evaluate('[ultraflash.state, ultraflash.stats]')}"
                )
            time.sleep(0.05)

    def shoot(self, name: str) -> None:
        """Keep a screenshot to look at."""
        picture = self.call("browsingContext.captureScreenshot", context=self.tab)["data"]
        (self.screenshots / f"{name}.png").write_bytes(base64.b64decode(picture))


@contextlib.contextmanager
def firefox(program: str, profile: Path, screenshots: Path) -> Iterator[Firefox]:
    """A browser with a fresh profile, for as long as the block runs."""
    (profile / "user.js").write_text(PREFERENCES, encoding="utf-8")
    log = profile / "firefox.log"
    command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "HOME": str(profile)}
        )
    try:
        with connect(f"{_address(process, log)}/session", max_size=None) as socket:
            browser = Firefox(socket=socket, screenshots=screenshots)
            browser.begin()
            yield browser
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"Firefox does not listen:\n{log.read_text(errors='replace')[-2000:]}")
