"""Pictures and clips as people upload them, whole and broken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import av
import numpy as np
from PIL import Image

RED, GREEN, BLUE = (200, 40, 40), (40, 180, 60), (40, 60, 190)


def picture(
    colour: tuple[int, int, int] = RED,
    *,
    width: int = 320,
    height: int = 180,
    kind: str = "PNG",
    **options: Any,
) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind, **options)
    return out.getvalue()


def halves(upper: tuple[int, int, int], lower: tuple[int, int, int], **options: Any) -> bytes:
    """A JPEG of two colours, 320x180."""
    both = Image.new("RGB", (320, 180), upper)
    both.paste(lower, (0, 90, 320, 180))
    out = io.BytesIO()
    both.save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def clip(
    *parts: tuple[tuple[int, int, int], int], fps: int = 16, container: str = "mp4", codec: str = "libx264"
) -> bytes:
    """A clip, 320x180, that shows each colour for so many frames."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for colour, count in parts:
            frame_HWC = np.full((180, 320, 3), colour, np.uint8)
            for _ in range(count):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that say they are a picture of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
