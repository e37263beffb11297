"""What tests of jobs do over and over: ask, wait, look at the pictures."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from live_server import PATIENCE_S, LiveServer
from pattern_engine import colour, read_number

OVER = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error, which has the one shape."""
        error = self.json["error"]
        assert set(error) == {"code", "message", "param", "type"}
        return str(error["code"])


def ask(
    server: LiveServer, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request; a body that is not bytes goes as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(f"http://{server.address}{path}", data=data, headers=sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


def make(server: LiveServer, prompt: str = "a hill", **fields: Any) -> dict[str, Any]:
    """Queues a video."""
    answer = ask(server, "POST", "/v1/videos", {"prompt": prompt, "seed": 7, **fields})
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json
    return made


def wait_for(
    server: LiveServer,
    video_id: str,
    condition: Callable[[dict[str, Any]], bool] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Waits until a video is over, or until something else holds of it."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while True:
        video: dict[str, Any] = ask(server, "GET", f"/v1/videos/{video_id}", headers=headers).json
        if condition(video) if condition else video["status"] in OVER:
            return video
        assert time.monotonic() < deadline, (video, server.output())
        time.sleep(0.1)


def download(server: LiveServer, video_id: str) -> bytes:
    answer = ask(server, "GET", f"/v1/videos/{video_id}/content")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "video/mp4")
    return answer.body


def pictures(mp4: bytes) -> list[np.ndarray]:
    """All frames, uint8 (H, W, 3) RGB; they follow each other without a gap."""
    with av.open(io.BytesIO(mp4)) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    assert rate is not None
    assert [frame.pts * frame.time_base * rate for frame in frames] == list(range(len(frames)))
    return [
        frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        for frame in frames
    ]


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [read_number(frame) for frame in frames]


def shows(frame: np.ndarray, prompt: str, seed: int = 7) -> bool:
    """Whether the background is that of a prompt."""
    return bool(np.abs(frame[100, 100].astype(float) - colour(prompt, seed)).max() < 12)
