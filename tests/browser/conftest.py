"""A real server, a real browser, and a page that must not log an error."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(Path(__file__).parent / "rig"))

from page_server import PageServer
from visitor import PATIENCE_SECONDS, Visitor

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


def shared_server(folder: Path, *, patterns: bool) -> Iterator[PageServer]:
    running = PageServer(folder=folder, patterns=patterns)
    running.launch()
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The server that most tests share; its pictures are patterns, which takes it next to no time."""
    yield from shared_server(tmp_path_factory.mktemp("server"), patterns=True)


@pytest.fixture(scope="session")
def mini_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the real model, for tests that look at the pictures."""
    yield from shared_server(tmp_path_factory.mktemp("mini-server"), patterns=False)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PageServer]:
    """A server, not yet launched, for tests that end it."""
    own = PageServer(folder=tmp_path, patterns=True)
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


@pytest.fixture
def console_errors() -> list[str]:
    """Errors that the pages of the test logged; a test that causes some must clear the list."""
    return []


@pytest.fixture
def visit(browser: Browser, console_errors: list[str], screenshots: Path) -> Iterator[Callable[..., Visitor]]:
    """Opens a page as a new visitor: ``visit(url, color_scheme="light", viewport=...)``."""
    contexts = []

    def visit_one(url: str, **options: Any) -> Visitor:
        settings = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark", **options}
        context = browser.new_context(**settings)
        context.set_default_timeout(1000 * PATIENCE_SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: console_errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: console_errors.append(str(error)))
        page.goto(url)
        return Visitor(page=page, screenshots=screenshots)

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
