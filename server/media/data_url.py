"""Files that come as text: in base64, alone or as a data URL."""

from __future__ import annotations

import base64
import binascii

from ultraflash.server.errors import InvalidField

DATA_URL = "data:"
_BASE64 = ";base64"


def bytes_of(text: str, param: str) -> bytes:
    """The bytes of a data URL, or of base64 without the head of one.

    Raises ``InvalidField``, which names the field ``param``, for anything else.
    """
    head, comma, data = text.partition(",") if text.startswith(DATA_URL) else (_BASE64, ",", text)
    if not comma or not head.endswith(_BASE64):
        raise InvalidField(f"{param} is no data URL in base64.", param=param)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(f"{param} is no valid base64: {error}.", param=param) from error
