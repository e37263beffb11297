"""What kind of picture or clip a file is, by its first bytes. Nothing else is ever handed to a decoder."""

from __future__ import annotations

HEAD_BYTES = 16
ACCEPTED = "a PNG, JPEG or WebP picture, or a short MP4, MOV, WebM or Matroska clip"


def demuxer_of(head: bytes) -> str | None:
    """FFmpeg's demuxer for a file with these first bytes; None for a kind that is not accepted."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png_pipe"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg_pipe"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp_pipe"
    if head[4:8] == b"ftyp":
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    return None
