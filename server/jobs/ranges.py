"""Byte ranges of HTTP (RFC 9110, section 14): one range a request; several at once are answered with everything."""

from __future__ import annotations

import re

from ultraflash.server.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE | re.ASCII)


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and length that a Range header asks for of ``size`` bytes; None for all of them.

    A header that is not one range of bytes is ignored, as the standard has it. Raises ``RangeNotSatisfiable``.
    """
    match = None if header is None else _ONE_RANGE.fullmatch(header.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        length = min(int(last) + 1 if last else size, size) - start
    if length <= 0:
        raise RangeNotSatisfiable(f"The video has {size} bytes; none are in {header!r}.", size=size)
    return start, length
