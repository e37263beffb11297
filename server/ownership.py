"""Who runs a job: a name for one life of a server, and whether the server behind a name is still there."""

from __future__ import annotations

import os
import secrets
import socket


def own_name() -> str:
    """A name for this life of this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"


def surely_gone(owner: str, me: str) -> bool:
    """Whether the process behind ``owner`` has ended, as far as it can be known from here.

    A server on another machine, and one whose process id has been given to another program, are not known to be
    gone: their leases run out. What is not such a name is nobody's.
    """
    try:
        host, pid, _ = owner.rsplit(":", 2)
        number = int(pid)
    except ValueError:
        return False
    if owner == me or host != socket.gethostname():
        return False
    return number == os.getpid() or not _runs(number)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
