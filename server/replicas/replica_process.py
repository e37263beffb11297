"""The process of a replica: a whole server, on a socket that the front has given to it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from ultraflash.models.errors import UltraflashError
from ultraflash.server.logs import set_up_logging
from ultraflash.server.replicas.door import ReplicaDoor
from ultraflash.server.serving import CANNOT_SERVE, Serving
from ultraflash.server.settings import Settings


def main() -> None:
    """Serves until told to stop, or until the front is gone. The settings come as one line of JSON on stdin."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    line = sys.stdin.buffer.readline()
    if not line:
        return
    settings = Settings.model_validate_json(line)
    set_up_logging(
        "web",
        level=settings.log_level,
        form=settings.log_format,
        replica=settings.replicas.number,
    )
    threading.Thread(target=_die_at_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        serving = Serving(settings)
    except UltraflashError as error:
        print(f"ultraflash: {error.message}", file=sys.stderr)
        raise SystemExit(CANNOT_SERVE) from error
    secret = settings.replicas.secret
    assert secret is not None
    serving.app = ReplicaDoor(serving.app, services=serving.services, secret=secret)
    raise SystemExit(serving.run(listener))


def _die_at_end_of(pipe: int) -> None:
    """Kills this process once nobody holds the other end of the pipe.

    Not by a buffered file, whose lock a thread that waits would hold when the interpreter ends.
    """
    while os.read(pipe, 1024):
        continue
    # Asked to stop it would end its sessions and remove their snapshots, from which the replicas of the next front go
    # on; its worker ends when their channel closes. A front that stops asks by SIGTERM, and keeps the pipe until then.
    os.kill(os.getpid(), signal.SIGKILL)
