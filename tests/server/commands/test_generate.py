"""``ultraflash generate``: a complete file or a clear error, never half a file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from pattern_engine import PatternEngine, read_number

from ultraflash.server.cli import main


@pytest.fixture(autouse=True)
def pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRAFLASH_ENGINE", "pattern_engine:PatternEngine.load")


def generate(*options: str) -> int:
    return main(["generate", *options])


def test_a_file_holds_exactly_the_frames_that_were_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert generate("a hill", "-o", str(out), "--seconds", "2.5", "--seed", "7") == 0
    assert list(tmp_path.iterdir()) == [out]
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (224, 128, 16)
        frames = list(container.decode(video))
    assert [float(frame.pts * frame.time_base) for frame in frames] == [i / 16 for i in range(40)]
    pictures = [
        frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        for frame in frames
    ]
    assert [read_number(picture) for picture in pictures] == list(range(40))
    engine = PatternEngine()
    state = engine.open("a hill", size="0.5K", seed=7)
    made = engine.next_group(state)
    errors = [
        np.mean((picture - frame.astype(float)) ** 2) for picture, frame in zip(pictures, made, strict=False)
    ]
    assert 10 * np.log10(255**2 / max(errors)) > 35


def test_size_and_rate_are_options(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert generate("a hill", "-o", str(out), "--seconds", "1", "--size", "416x240", "--fps", "24") == 0
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate, video.frames) == (416, 240, 24, 24)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size", "8K"], "224x128"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--fps", "0"], "--fps"),
        (["--seed", "-1"], "--seed"),
        (["--preset", "broken"], "cannot be loaded"),
        (["-o", "no/such/folder/out.mp4"], "does not exist"),
        (["-o", "out.avi"], ".mp4"),
    ],
)
def test_a_mistake_is_one_clear_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert generate("a hill", "-o", str(tmp_path / "out.mp4"), *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ultraflash: ")
    assert told in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    assert generate(" ", "-o", str(tmp_path / "out.mp4")) == 2


def test_a_failing_engine_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError, match="on purpose"):
        generate("fault", "-o", str(out))
    assert list(tmp_path.iterdir()) == []
