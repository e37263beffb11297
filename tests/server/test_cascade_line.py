"""The whole line on the shipped networks: prompt, worker, encoder, socket or file, decoder."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ultraflash.models.cascade import Cascade
from ultraflash.server.cli import main
from ultraflash.server.engine import CASCADE

PROMPT = "snowy mountains at night, snow falling, camera pans left"
OTHER_PROMPT = "a calm sea at noon, sailing boats"
FRAME_US = 1e6 / 16


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade.load("mini")


def rgb(frames: Iterable[av.VideoFrame]) -> list[NDArray[np.uint8]]:
    return [
        frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        for frame in frames
    ]


def psnr(shown: NDArray[np.uint8], made: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((shown.astype(np.float64) - made) ** 2)))


def test_a_generated_file_shows_the_frames_that_the_cascade_makes(
    cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ULTRAFLASH_ENGINE", raising=False)
    out = tmp_path / "out.mp4"
    options = ["-o", str(out), "--seconds", "1.2", "--size", "0.5K", "--seed", "7"]
    assert main(["generate", PROMPT, *options]) == 0
    with av.open(str(out)) as container:
        shown = rgb(container.decode(video=0))
    assert len(shown) == 19
    state = cascade.open(PROMPT, size="0.5K", seed=7)
    made = np.concatenate([cascade.next_group(state).numpy() for _ in range(2)])[:19]
    assert min(psnr(a, b) for a, b in zip(shown, made, strict=True)) > 35


async def test_a_live_stream_shows_the_cascade_and_its_change_of_prompt(
    cascade: Cascade, start_server: Any
) -> None:
    server = start_server(ULTRAFLASH_ENGINE=CASCADE)
    server.wait_until_ready()
    _, able = server.get("/v1/capabilities")
    assert [size["name"] for size in able["presets"][0]["sizes"]] == ["0.5K", "1K", "2K"]
    async with server.client() as client:
        client.acknowledge = False
        await client.start(PROMPT, size="0.5K", seed=7, max_frames=45)
        await client.until_frame(3)
        await client.send("prompt.update", prompt=OTHER_PROMPT, event_id="turn")
        client.acknowledge = True
        await client.ack(client.frames()[-1][0])
        applied = await client.until("prompt.applied")
        assert await client.until_closed() == (1000, "max_frames")
    with av.open(io.BytesIO(b"".join(data for _, data in client.frames())), format="h264") as container:
        shown = rgb(container.decode(video=0))
    assert len(shown) == 45
    first = round(applied["first_pts_us"] / FRAME_US)
    assert first in (9, 21)
    state = cascade.open(PROMPT, size="0.5K", seed=7)
    made: list[NDArray[np.uint8]] = []
    while len(made) < 45:
        if len(made) == first:
            cascade.set_prompt(state, OTHER_PROMPT, transition="recompute")
        made += list(cascade.next_group(state).numpy())
    # Networks in training may show fine noise, of which a live bitrate keeps less than a file does.
    assert min(psnr(a, b) for a, b in zip(shown, made, strict=True)) > 30
