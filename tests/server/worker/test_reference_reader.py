"""Uploads are read apart: what one does to its decoder harms nobody."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pattern_engine import PatternReference
from uploads import RED, clip, picture, png_that_claims

from ultraflash.server.worker.messages import ReadReference, ReferenceRead
from ultraflash.server.worker.reference_reader import ReferenceReader


@pytest.fixture
def reports() -> queue.Queue[ReferenceRead]:
    return queue.Queue()


@pytest.fixture
def reader(reports: queue.Queue[ReferenceRead]) -> ReferenceReader:
    reader = ReferenceReader(reports.put)
    reader.start()
    return reader


def command(tmp_path: Path, upload: bytes, demuxer: str, **fields: Any) -> ReadReference:
    path = tmp_path / f"upload-{len(list(tmp_path.iterdir()))}"
    path.write_bytes(upload)
    usual = ReadReference(
        check_id=1,
        path=str(path),
        demuxer=demuxer,
        target=f"{path}.npy",
        max_pixels=2**25,
        max_frames=1000,
        max_seconds=60,
        cpu_s=20,
    )
    return replace(usual, **fields)


def test_a_picture_is_read_into_a_file_of_frames(
    tmp_path: Path, reader: ReferenceReader, reports: queue.Queue[ReferenceRead]
) -> None:
    order = command(tmp_path, picture(), "png_pipe")
    reader.read(order, PatternReference())
    assert reports.get(timeout=120) == ReferenceRead(check_id=1, code=None, message="")
    frames = np.load(order.target)
    assert frames.shape == (1, 128, 224, 3)
    assert np.abs(frames.mean(axis=(0, 1, 2)) - RED).max() < 4


def test_what_takes_too_much_ends_its_decoder_and_the_next_upload_is_read(
    tmp_path: Path, reader: ReferenceReader, reports: queue.Queue[ReferenceRead]
) -> None:
    # Each frame is enlarged to 3840x2160, which a second of the processor is not enough for.
    slow = command(tmp_path, clip((RED, 150)), "mov", cpu_s=1, check_id=2)
    reader.read(slow, PatternReference(frames=1, height=2160, width=3840))
    # It says that it has a hundred thousand times the pixels that are in it.
    bomb = command(tmp_path, png_that_claims(15_000, 15_000), "png_pipe", max_pixels=2**40, check_id=3)
    reader.read(bomb, PatternReference())
    reader.read(command(tmp_path, picture(), "png_pipe", check_id=4), PatternReference())
    answers = [reports.get(timeout=240) for _ in range(3)]
    assert [answer.check_id for answer in answers] == [2, 3, 4]
    assert [answer.code for answer in answers] == ["bad_reference", "bad_reference", None]
    assert not Path(slow.target).exists()
    assert not Path(bomb.target).exists()
