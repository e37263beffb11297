"""How much memory a process of this machine holds."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes(process_id: int) -> int:
    """Resident memory of a process; 0 where it has ended or the system does not say (only Linux does)."""
    try:
        pages = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
