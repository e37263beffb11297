"""What kind of picture or clip a file is, by its first bytes. Nothing else is ever handed to a decoder."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Kinds of files that are accepted somewhere; as text what to send.

    Attributes:
        clips: whether clips are, beside pictures.
    """

    clips: bool

    def __str__(self) -> str:
        picture = "a PNG, JPEG or WebP picture"
        return f"{picture}, or a short MP4, MOV, WebM or Matroska clip" if self.clips else picture

    def demuxer_of(self, head: bytes) -> str | None:
        """FFmpeg's demuxer for a file with these first bytes; None for a kind that is not accepted."""
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return "png_pipe"
        if head.startswith(b"\xff\xd8\xff"):
            return "jpeg_pipe"
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return "webp_pipe"
        if self.clips and head[4:8] == b"ftyp":
            return "mov"
        if self.clips and head.startswith(b"\x1aE\xdf\xa3"):
            return "matroska"
        return None


ACCEPTED = Kinds(clips=True)
PICTURES = Kinds(clips=False)
