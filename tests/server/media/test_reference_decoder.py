"""Uploads come out as frames of the size that was asked for; what takes too much or is broken is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uploads import BLUE, GREEN, RED, clip, halves, picture, png_that_claims

from ultraflash.server.media.reference_decoder import BadReference, DecodeOrder, ReferenceTooLarge, decode
from ultraflash.server.media.signatures import ACCEPTED, HEAD_BYTES


@pytest.fixture
def order(tmp_path: Path) -> DecodeOrder:
    return DecodeOrder(
        path=str(tmp_path / "upload"),
        demuxer="",
        target=str(tmp_path / "frames.npy"),
        frames=21,
        height=128,
        width=224,
        fps=16,
        max_pixels=1_000_000,
        max_frames=200,
        max_seconds=8,
        cpu_s=60,
    )


def decoded(order: DecodeOrder, upload: bytes, demuxer: str | None = None) -> np.ndarray:
    Path(order.path).write_bytes(upload)
    found = demuxer or ACCEPTED.demuxer_of(upload[:HEAD_BYTES])
    assert found is not None
    decode(replace(order, demuxer=found))
    return np.load(order.target)


def near(frame_HWC: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(frame_HWC.reshape(-1, 3).mean(axis=0) - colour).max() < 8)


@pytest.mark.parametrize(
    "upload",
    [
        picture(),
        picture(kind="JPEG", quality=95),
        picture(kind="WEBP", lossless=True),
        picture(width=100, height=400),
        picture(width=17, height=33),
        clip((RED, 1)),
    ],
    ids=["png", "jpeg", "webp", "tall", "small", "clip of one frame"],
)
def test_a_picture_is_one_frame_of_the_wanted_size(order: DecodeOrder, upload: bytes) -> None:
    frames = decoded(order, upload)
    assert (frames.shape, frames.dtype) == ((1, 128, 224, 3), np.uint8)
    assert near(frames[0], RED)


def test_a_photograph_is_turned_the_way_it_was_taken(order: DecodeOrder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (frame,) = decoded(order, halves(RED, BLUE, exif=exif))
    # Turned clockwise by a quarter: what was above is now to the right.
    assert near(frame[:, 130:], RED)
    assert near(frame[:, :94], BLUE)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9"), ("matroska", "libx264")],
)
def test_of_a_clip_the_newest_frames_are_kept_at_the_wanted_rate(
    order: DecodeOrder, container: str, codec: str
) -> None:
    upload = clip((RED, 40), (GREEN, 30), (BLUE, 15), fps=30, container=container, codec=codec)
    frames = decoded(order, upload)
    assert frames.shape == (21, 128, 224, 3)
    seen = [
        next(name for name, c in {"r": RED, "g": GREEN, "b": BLUE}.items() if near(frame, c))
        for frame in frames
    ]
    # 85 frames at 30 a second are 46 at 16 a second; green ones come until 70/30 s.
    assert "".join(seen) == "g" * 13 + "b" * 8
    assert decoded(order, clip((RED, 5), fps=8)).shape[0] == 9


@pytest.mark.parametrize(
    ("upload", "error", "told"),
    [
        (picture()[:40], BadReference, "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"nonsense" * 20, BadReference, "cannot be read"),
        (b"\xff\xd8\xff" + bytes(100), BadReference, "cannot be read"),
        (clip((RED, 9))[:600], BadReference, "cannot be read"),
        (png_that_claims(15_000, 15_000), ReferenceTooLarge, "15000x15000"),
        (picture(width=900, height=40), BadReference, "8 times"),
        (picture(width=2000, height=1000), ReferenceTooLarge, "2000x1000"),
        (clip((RED, 201), fps=60), ReferenceTooLarge, "more than 200 frames"),
        (clip((RED, 20), fps=1), ReferenceTooLarge, "more than 8 seconds"),
    ],
    ids=["torn", "no png", "no jpeg", "torn clip", "bomb", "strip", "large", "many frames", "long"],
)
def test_what_cannot_be_used_is_refused_in_words(
    order: DecodeOrder, upload: bytes, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        decoded(order, upload)
    assert not Path(order.target).exists()


def test_a_playlist_opens_no_other_file(order: DecodeOrder, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    playlist = f"ffconcat version 1.0\nfile {tmp_path / 'secret.png'}\n".encode()
    assert ACCEPTED.demuxer_of(playlist[:HEAD_BYTES]) is None
    with pytest.raises(BadReference):
        decoded(order, playlist, "mov")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GIF89a",
        b"PK\x03\x04",
        b"%PDF-1.7",
        b"#EXTM3U\n",
        b"<svg xmlns=",
        b"RIFF\0\0\0\0WAVE",
        bytes(16),
    ],
)
def test_other_kinds_are_not_decoded_at_all(head: bytes) -> None:
    assert ACCEPTED.demuxer_of(head) is None
