"""``ultraflash upscale``: a file with the same frames at the same times, larger, and the same sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ultraflash.server.cli import main

RATE = Fraction(30000, 1001)
FRAMES = 11


def write_clip(path: Path) -> None:
    """Frames whose brightness grows, with a tone beside them; the sixth is shown for twice as long."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "5"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for number in range(FRAMES):
            picture = np.full((64, 96, 3), 20 + 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + (number > 5), 1 / RATE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = (np.sin(np.arange(16 * 1024) * 0.06) * 8000).astype(np.int16)[None]
        for start in range(0, wave.shape[1], 1024):
            piece = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(wave[:, start : start + 1024]), format="s16", layout="mono"
            )
            piece.sample_rate, piece.pts = 44100, start
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))


def shown(path: Path) -> tuple[list[float], list[float]]:
    """When the frames of a file are shown, and how bright they are."""
    with av.open(str(path)) as container:
        frames = [
            (float(frame.pts * frame.time_base), float(frame.to_ndarray(format="gray").mean()))
            for frame in container.decode(video=0)
        ]
    return [time for time, _ in frames], [light for _, light in frames]


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_times_pictures_and_sound_are_those_of_the_source(tmp_path: Path) -> None:
    source, out = tmp_path / "small.mp4", tmp_path / "large.mp4"
    write_clip(source)
    assert main(["upscale", str(source), "-o", str(out), "--factor", "2", "--prompt", "fog"]) == 0
    assert sorted(tmp_path.iterdir()) == [out, source]
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.codec_context.name) == (192, 128, "h264")
    times, light = shown(out)
    assert times == pytest.approx(shown(source)[0], abs=1e-3)
    assert light == sorted(light) and len(light) == FRAMES
    assert np.corrcoef(light, shown(source)[1])[0, 1] > 0.95
    assert sound_of(out) == sound_of(source)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--factor", "5"], "these factors: 2, 4, 6"),
        (["-o", "out.avi"], ".mp4"),
        (["-o", "no/such/folder/out.mp4"], "does not exist"),
        (["--prompt", ""], "prompt is empty"),
        (["--preset", "nothing"], "no preset"),
    ],
)
def test_a_mistake_is_one_clear_line_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    source = tmp_path / "small.mp4"
    write_clip(source)
    assert main(["upscale", str(source), "-o", str(tmp_path / "large.mp4"), *options]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("damage", ["absent", "text", "cut"])
def test_a_file_that_is_no_video_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    source = tmp_path / "small.mp4"
    if damage == "text":
        source.write_text("no video")
    elif damage == "cut":
        write_clip(source)
        source.write_bytes(source.read_bytes()[:400])
    before = list(tmp_path.iterdir())
    assert main(["upscale", str(source), "-o", str(tmp_path / "large.mp4")]) == 2
    assert "cannot be opened as a video" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == before
