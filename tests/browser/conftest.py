"""A real server, a real browser, and a page that must not log an error."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

READY_SECONDS = 300
STOP_SECONDS = 60
# For what takes a moment on a quiet machine; a busy one must not make a test fail.
PATIENCE_SECONDS = 180
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
SERVE = "import sys; from ultraflash.server.cli import main; sys.exit(main())"


@dataclass(kw_only=True)
class Server:
    """``ultraflash serve`` in a process of its own, on a port that stays the same over restarts."""

    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it, without waiting until it is ready."""
        command = [sys.executable, "-c", SERVE, "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.log.parent)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                pytest.fail(f"The server ended early:\n{self.log.read_text()[-4000:]}")
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=30).close()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
            else:
                return
        pytest.fail(f"The server was not ready in {READY_SECONDS} s:\n{self.log.read_text()[-4000:]}")

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share."""
    shared = Server(port=free_port(), log=tmp_path_factory.mktemp("server") / "serve.log")
    shared.launch()
    try:
        shared.wait_until_ready()
        yield shared
    finally:
        shared.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server, not yet launched, for tests that end it."""
    own = Server(port=free_port(), log=tmp_path / "serve.log")
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium of the system, or the one named by ULTRAFLASH_BROWSER, or else that of Playwright."""
    path = os.environ.get("ULTRAFLASH_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(BROWSER_FLAGS))
        try:
            yield chromium
        finally:
            chromium.close()


THUMBNAIL = """() => {
  const small = document.createElement("canvas");
  [small.width, small.height] = [32, 18];
  const context = small.getContext("2d");
  const shown = document.querySelector("#picture:not([hidden])") ?? document.querySelector("#video");
  context.drawImage(shown, 0, 0, small.width, small.height);
  return [...context.getImageData(0, 0, small.width, small.height).data].filter((_, i) => i % 4 < 3);
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Somebody in front of the page: what they do, and what they see."""

    page: Page
    screenshots: Path

    @property
    def state(self) -> str:
        return str(self.page.evaluate("ultraflash.state"))

    @property
    def frames(self) -> int:
        return int(self.page.evaluate("ultraflash.framesShown"))

    @property
    def stats(self) -> dict[str, Any]:
        return dict(self.page.evaluate("ultraflash.stats"))

    def wait_for(self, condition: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a JavaScript expression about the page holds."""
        deadline = time.monotonic() + seconds
        # Playwright's own wait_for_function needs eval, which the page's policy forbids.
        while not self.page.evaluate(condition):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{condition} did not become true in {seconds} s; state {self.state}, {self.stats}"
                )
            self.page.wait_for_timeout(50)

    def wait_for_state(self, state: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        self.wait_for(f"ultraflash.state === {state!r}", seconds=seconds)

    def wait_for_frames(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until ``count`` more frames have been shown."""
        self.wait_for(f"ultraflash.framesShown >= {self.frames + count}", seconds=seconds)

    def play(self, prompt: str) -> None:
        """Type a prompt, press Enter, and wait for the first frames."""
        box = self.page.get_by_label("Prompt")
        box.fill(prompt)
        box.press("Enter")
        self.wait_for("ultraflash.framesShown >= 4")

    def steer(self, prompt: str) -> None:
        """Type another prompt, and wait until the page says that it is on the screen."""
        applied = self.stats.get("promptsApplied", 0)
        box = self.page.get_by_label("Prompt")
        box.fill(prompt)
        box.press("Enter")
        self.wait_for(f"(ultraflash.stats.promptsApplied ?? 0) > {applied}")

    def look(self) -> list[int]:
        """The picture, 32 by 18 pixels of three values from 0 to 255 each."""
        return list(self.page.evaluate(THUMBNAIL))

    def shoot(self, name: str) -> None:
        """Keep a screenshot to look at, once everything has faded in."""
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self.screenshots / f"{name}.png")


@pytest.fixture
def console_errors() -> list[str]:
    """Errors that the pages of the test logged; a test that causes some must clear the list."""
    return []


@pytest.fixture
def visit(browser: Browser, console_errors: list[str], screenshots: Path) -> Iterator[Callable[..., Viewer]]:
    """Opens a page as a new visitor: ``visit(url, color_scheme="light", viewport=...)``."""
    contexts = []

    def visit_one(url: str, **options: Any) -> Viewer:
        settings = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark", **options}
        context = browser.new_context(**settings)
        context.set_default_timeout(1000 * PATIENCE_SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: console_errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: console_errors.append(str(error)))
        page.goto(url)
        return Viewer(page=page, screenshots=screenshots)

    yield visit_one
    for context in contexts:
        context.close()
    assert console_errors == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for pictures to look at: ULTRAFLASH_SCREENSHOTS, or a temporary one."""
    folder = Path(os.environ.get("ULTRAFLASH_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
