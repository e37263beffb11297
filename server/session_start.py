"""What a ``session.start`` asks for, checked before any place is taken or picture read."""

from __future__ import annotations

from ultraflash.models.errors import UnknownPreset
from ultraflash.server.errors import ReferenceRefused, Unsupported
from ultraflash.server.media.data_url import bytes_of
from ultraflash.server.protocol import SessionStart
from ultraflash.server.worker.messages import WorkerReady


def check_start(start: SessionStart, ready: WorkerReady) -> None:
    """Raises an error that says what is accepted where ``session.start`` asks for what cannot be had."""
    if start.preset not in (None, ready.model):
        raise UnknownPreset(f"No preset {start.preset!r} is loaded; this server runs {ready.model!r}.")
    if start.codecs is not None and not any(
        codec.lower().startswith(("avc1", "h264")) for codec in start.codecs
    ):
        raise Unsupported("None of the codecs can be made; this server makes H.264: avc1.*", param="codecs")
    if start.negative is not None:
        raise Unsupported("'negative' is reserved and not supported yet; leave it out.", param="negative")
    ready.check_prompt(start.prompt)


def picture_of(image: str, max_bytes: int) -> bytes:
    """The picture in ``image``, base64 with or without the head of a data URL.

    Raises ``InvalidField``, or ``ReferenceRefused`` for one of more than ``max_bytes``.
    """
    picture = bytes_of(image, "image")
    if len(picture) > max_bytes:
        raise ReferenceRefused(
            "reference_too_large", f"The picture has {len(picture)} bytes; {max_bytes} are accepted."
        )
    return picture


def pixel_rate(ready: WorkerReady, size: str, fps: int | None) -> int:
    """Pixels a second of a stream. Raises ``UnknownSize``."""
    wanted = ready.size(size)
    return wanted.width * wanted.height * (fps or ready.fps)
