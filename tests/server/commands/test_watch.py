"""``ultraflash watch``: a stream as a file, as it was sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest
from pattern_engine import read_number

from ultraflash.server.cli import main

if TYPE_CHECKING:
    from live_server import LiveServer


def shown(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_a_prompt_becomes_a_file_of_the_length_that_was_asked_for(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    status = main(
        [
            "watch",
            f"http://{server.address}/",
            *("--prompt", "a hill", "--size", "1K", "--seed", "3", "--seconds", "2.5", "-o", str(out)),
        ]
    )
    assert status == 0
    assert list(tmp_path.iterdir()) == [out]
    assert shown(out) == list(range(40))
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (416, 240, 40, 16)
    assert f"{out}: 40 frames" in capsys.readouterr().err.replace("\n", "")


async def test_somebody_elses_session_is_watched_to_its_end_in_a_file_for_each_size(
    server: LiveServer, tmp_path: Path
) -> None:
    out = tmp_path / "theirs.mp4"
    async with server.client() as owner:
        started = await owner.start()
        await owner.until_frame(30)
        options = ["--session", started["session_id"], "--token", started["viewer_token"], "-o", str(out)]
        watching = asyncio.create_task(asyncio.to_thread(main, ["watch", f"ws://{server.address}", *options]))
        await owner.step_until(out.exists, "file of the viewer")
        await owner.send("session.control", event_id="larger", size="1K")
        await owner.until("stream.config")
        await owner.until_frame(owner.frames()[-1][0].seq + 30)
        await owner.listen(0.5)
        await owner.send("session.stop")
        assert await asyncio.wait_for(watching, 120) == 0
    small, large = shown(out), shown(tmp_path / "theirs-2.mp4")
    assert small + large == list(range(small[0], small[0] + len(small) + len(large)))


def test_what_cannot_be_watched_is_said_in_one_line(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.mp4")
    for options, expected in (
        (["--prompt", "a", "-o", str(tmp_path / "out.avi")], "must end in .mp4"),
        (["--prompt", "a", "-o", str(tmp_path / "none" / "out.mp4")], "does not exist"),
        (["--prompt", "a", "--seconds", "0"], "above 0"),
        (["-o", out], "Give a prompt"),
        (["--session", "x", "--token", "y", "-o", out], "has ended or never was"),
        (["--prompt", "a", "--size", "8K", "-o", out], "cannot make the size '8K'"),
    ):
        assert main(["watch", f"http://{server.address}", *options]) == 2
        assert expected in capsys.readouterr().err
    assert main(["watch", "http://127.0.0.1:9", "--prompt", "a"]) == 2
    assert "There is no stream at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
