import struct
import zlib
from pathlib import Path

import pytest
import torch

from ultraflash.training.sample_sheet import tile, to_uint8, write_png


def test_a_png_holds_the_pixels_that_were_given(tmp_path: Path) -> None:
    picture_HWC = torch.randint(
        0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    write_png(tmp_path / "sheet.png", picture_HWC)
    data = (tmp_path / "sheet.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    rows = torch.frombuffer(
        bytearray(zlib.decompress(data[start + 4 : start + 4 + length])), dtype=torch.uint8
    )
    assert torch.equal(rows.view(5, 22)[:, 1:].reshape(5, 7, 3), picture_HWC)


def test_pictures_of_different_sizes_share_a_sheet() -> None:
    white = [
        torch.full((height, width, 3), 255, dtype=torch.uint8) for height, width in ((4, 6), (8, 2), (3, 3))
    ]
    sheet_HWC = tile([white[:2], white[2:]])
    assert sheet_HWC.shape == (4 + 8 + 4 + 3 + 4, 4 + 6 + 4 + 2 + 4, 3)
    assert int((sheet_HWC == 255).all(-1).sum()) == 4 * 6 + 8 * 2 + 3 * 3


def test_floats_are_clamped_and_rounded() -> None:
    picture_CHW = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)
    assert to_uint8(picture_CHW).flatten().tolist() == [0, 128, 255]


def test_a_float_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "x.png", torch.zeros(2, 2, 3))
