"""Somebody in front of the page: what they do, what they see, and what stands in the way of those who see little."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

# For what takes a moment on a quiet machine; a busy one must not make a test fail.
PATIENCE_SECONDS = 180
FADE_MS = 350
SCHEMES = ("dark", "light")

THUMBNAIL = """() => {
  const small = document.createElement("canvas");
  [small.width, small.height] = [32, 18];
  const context = small.getContext("2d");
  const shown = document.querySelector("#picture:not([hidden])") ?? document.querySelector("#video");
  context.drawImage(shown, 0, 0, small.width, small.height);
  return [...context.getImageData(0, 0, small.width, small.height).data].filter((_, i) => i % 4 < 3);
}"""
AUDIT = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html).join(" ")}`);
}"""


@cache
def axe_source() -> str:
    """axe-core, which the package brings along."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A page in a browser context of its own."""

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

    def wait_until_told(self, text: str) -> None:
        """Wait until screen readers are told this."""
        self.wait_for(f"document.querySelector('#announcer').textContent.includes({text!r})")

    def play(self, prompt: str) -> None:
        """Type a prompt, press Enter, and wait for the first frames."""
        self.enter(prompt)
        self.wait_for("ultraflash.framesShown >= 4")

    def steer(self, prompt: str) -> None:
        """Type another prompt, and wait until the page says that it is on the screen."""
        applied = self.stats.get("promptsApplied", 0)
        self.enter(prompt)
        self.wait_for(f"(ultraflash.stats.promptsApplied ?? 0) > {applied}")

    def enter(self, prompt: str) -> None:
        """Type a prompt and press Enter."""
        box = self.page.get_by_label("Prompt")
        box.fill(prompt)
        box.press("Enter")

    def press(self, name: str) -> None:
        """Press the button of exactly this name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def look(self) -> list[int]:
        """The picture, 32 by 18 pixels of three values from 0 to 255 each."""
        return list(self.page.evaluate(THUMBNAIL))

    def shoot(self, name: str, *, full: bool = False) -> None:
        """Keep screenshots to look at, dark and light, and check both for what shuts people out."""
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_timeout(FADE_MS)
            self.page.screenshot(path=self.screenshots / f"{name}-{scheme}.png", full_page=full)
            assert self.audit() == [], f"{name}, {scheme}"

    def audit(self) -> list[str]:
        """What axe finds wrong with the page as it is now."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(axe_source())
        return list(self.page.evaluate(AUDIT))
