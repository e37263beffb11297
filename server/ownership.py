"""Who runs a job: a name for one life of a server, and whether the server behind a name is still there."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

# Of the fields behind the program's name in /proc/PID/stat: clock ticks from the machine's start to the process's.
_START_FIELD = 19


def own_name() -> str:
    """A name for this life of this process."""
    pid = os.getpid()
    began = _began(pid)
    process = f"{pid}" if began is None else f"{pid}.{began}"
    return f"{socket.gethostname()}:{process}:{secrets.token_hex(8)}"


def surely_gone(owner: str, me: str) -> bool:
    """Whether the process behind ``owner`` has ended, as far as it can be known from here.

    A process id alone says little: a container that starts again gives the same few. So the moment at which the
    process began counts too, where there is ``/proc``. A server on another machine is not known to be gone: its lease
    runs out. What is not such a name is nobody's.
    """
    try:
        host, process, _ = owner.rsplit(":", 2)
        pid, _, began = process.partition(".")
        number = int(pid)
    except ValueError:
        return False
    if owner == me or host != socket.gethostname():
        return False
    if number == os.getpid() or not _runs(number):
        return True
    return bool(began) and _began(number) not in (None, began)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _began(pid: int) -> str | None:
    """When a process began, in clock ticks since the machine did; None where that is not to be had."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The program's name is in brackets and may hold some itself.
        return line.rpartition(")")[2].split()[_START_FIELD]
    except (OSError, IndexError):
        return None
