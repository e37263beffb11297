"""The wall clock that clients compare with theirs."""

from __future__ import annotations

import time


def unix_ms() -> float:
    """Unix time in milliseconds."""
    return time.time() * 1000.0
