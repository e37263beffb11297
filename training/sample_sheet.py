"""Sample sheets: pictures tiled into one PNG, written without an imaging library.

H W height and width of one picture, C its three colour channels (RGB).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from ultraflash.training.checkpoint import write_atomically

_GAP = 4
_PAPER = 24


def to_uint8(picture_CHW: torch.Tensor) -> torch.Tensor:
    """Turn a float picture (3, H, W) in [0, 1], clamped, into uint8 (H, W, 3)."""
    return (picture_CHW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()


def tile(rows: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Lay out uint8 pictures (H, W, 3), which may differ in size, as rows on dark paper: uint8 (H, W, 3)."""
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    width = max(sum(picture.shape[1] + _GAP for picture in row) for row in rows) + _GAP
    sheet = torch.full((sum(heights) + _GAP * (len(rows) + 1), width, 3), _PAPER, dtype=torch.uint8)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for picture in row:
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + _GAP
        top += height + _GAP
    return sheet


def encode_png(picture_HWC: torch.Tensor) -> bytes:
    """A uint8 (H, W, 3) RGB picture as PNG. Raises ValueError for anything else."""
    if picture_HWC.dtype != torch.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3), not {picture_HWC.dtype} {tuple(picture_HWC.shape)}")
    height, width, _ = picture_HWC.shape
    # Every PNG row starts with the number of its filter; 0 is "none".
    rows = torch.zeros(height, 1 + width * 3, dtype=torch.uint8)
    rows[:, 1:] = picture_HWC.reshape(height, width * 3)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.numpy().tobytes(), level=6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def write_png(path: Path, picture_HWC: torch.Tensor) -> None:
    """Write a uint8 (H, W, 3) RGB picture as PNG, atomically."""
    write_atomically(path, encode_png(picture_HWC))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
