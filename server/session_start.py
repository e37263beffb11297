"""What a ``session.start`` asks for, checked before any place is taken or picture read."""

from __future__ import annotations

import base64
import binascii

from ultraflash.models.errors import UnknownPreset
from ultraflash.server.errors import InvalidField, ReferenceRefused, Unsupported
from ultraflash.server.protocol import SessionStart
from ultraflash.server.worker.messages import WorkerReady

DATA_URL = "data:"
BASE64 = ";base64"


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
    head, comma, data = image.partition(",") if image.startswith(DATA_URL) else (BASE64, ",", image)
    if not comma or not head.endswith(BASE64):
        raise InvalidField("image is no data URL in base64.", param="image")
    try:
        picture = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(f"image is no valid base64: {error}.", param="image") from error
    if len(picture) > max_bytes:
        raise ReferenceRefused(
            "reference_too_large", f"The picture has {len(picture)} bytes; {max_bytes} are accepted."
        )
    return picture


def pixel_rate(ready: WorkerReady, size: str, fps: int | None) -> int:
    """Pixels a second of a stream. Raises ``UnknownSize``."""
    wanted = ready.size(size)
    return wanted.width * wanted.height * (fps or ready.fps)
