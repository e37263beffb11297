"""Somebody who orders videos from a server that is killed all the time, and remembers what was promised."""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

PROMPTS = ("a green hill", "a lake at dawn", "a forest in the rain")
OVER = ("completed", "failed", "cancelled")
PATIENCE_S = 600.0
RETRY_S = 0.2


@dataclass(slots=True, kw_only=True)
class Video:
    """One order.

    Attributes:
        cancel_at: when it is to be cancelled, in seconds of ``time.monotonic``; never for None.
        cancelled: whether the server has said that it is.
        status: what became of it.
        file: what was downloaded, of a completed one.
    """

    id: str
    prompt: str
    seed: int
    frames: int
    cancel_at: float | None = None
    cancelled: bool = False
    status: str = "unknown"
    file: bytes | None = None

    @property
    def lost(self) -> bool:
        """Whether it did not become what was promised."""
        return self.status != ("cancelled" if self.cancelled else "completed")


class JobCustomer:
    """Keeps some jobs in flight and cancels some of them at a random moment.

    A request whose answer was lost is sent again, orders with the same Idempotency-Key.
    """

    def __init__(
        self,
        url: str,
        dice: random.Random,
        *,
        jobs: int,
        longest_frames: int,
        cancel_share: float,
        cancel_within_s: float,
    ) -> None:
        self.videos: list[Video] = []
        self._url = url
        self._dice = dice
        self._jobs = jobs
        self._longest_frames = longest_frames
        self._cancel_share = cancel_share
        self._cancel_within_s = cancel_within_s
        self._stopping = False

    async def run(self) -> None:
        """Orders until told to stop."""
        while not self._stopping:
            await asyncio.to_thread(self._look_and_order)
            await asyncio.sleep(RETRY_S)

    def stop(self) -> None:
        """Orders nothing any more."""
        self._stopping = True

    def collect(self) -> list[Video]:
        """Waits for all videos and downloads them."""
        deadline = time.monotonic() + PATIENCE_S
        while self._waiting() and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        for video in self.videos:
            video.status = self._status(video)
            if video.status == "completed":
                video.file = self._ask("GET", f"/v1/videos/{video.id}/content")[1]
        return self.videos

    def _look_and_order(self) -> None:
        waiting = self._waiting()
        for video in waiting:
            if video.cancel_at is not None and time.monotonic() > video.cancel_at:
                status, body = self._ask("POST", f"/v1/videos/{video.id}/cancel")
                video.cancelled = status == 200 and json.loads(body)["status"] == "cancelled"
        for _ in range(self._jobs - len(waiting)):
            self._order()

    def _order(self) -> None:
        frames, seed = self._dice.randint(20, self._longest_frames), self._dice.randrange(1000)
        prompt, key = self._dice.choice(PROMPTS), f"order-{len(self.videos)}"
        wish = {"prompt": prompt, "seed": seed, "num_frames": frames, "size": "0.5K"}
        status, body = self._ask("POST", "/v1/videos", wish, {"Idempotency-Key": key})
        if status != 200:
            raise RuntimeError(f"an order was answered with {status}: {body!r}")
        video = Video(id=json.loads(body)["id"], prompt=prompt, seed=seed, frames=frames)
        if self._dice.random() < self._cancel_share:
            video.cancel_at = time.monotonic() + self._dice.uniform(0, self._cancel_within_s)
        self.videos.append(video)

    def _waiting(self) -> list[Video]:
        """Videos that are not over yet."""
        for video in self.videos:
            if video.status not in OVER:
                video.status = self._status(video)
        return [video for video in self.videos if video.status not in OVER]

    def _status(self, video: Video) -> str:
        status, body = self._ask("GET", f"/v1/videos/{video.id}")
        return str(json.loads(body)["status"]) if status == 200 else f"answered with {status}"

    def _ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request, repeated while there is no server or it is not ready."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            request = urllib.request.Request(f"{self._url}{path}", data=data, headers=sent, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in (429, 503) or time.monotonic() > deadline:
                        return error.code, error.read()
            except (OSError, HTTPException):
                if time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_S)
