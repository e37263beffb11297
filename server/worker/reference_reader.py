"""Reads uploads one after the other, each in a process of its own, while the engine goes on."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from ultraflash.models.errors import UltraflashError
from ultraflash.server.child_process import child_command
from ultraflash.server.engine import ReferenceFormat
from ultraflash.server.errors import JobFault
from ultraflash.server.media.reference_decoder import BadReference, DecodeOrder, ReferenceTooLarge
from ultraflash.server.media.signatures import ACCEPTED
from ultraflash.server.worker.messages import ReadReference, ReferenceRead

log = logging.getLogger(__name__)

# The processor may be busy with other things; its time alone is what a file can waste.
PATIENCE = 10


class ReferenceReader:
    """A thread that waits for one decoder at a time."""

    def __init__(self, emit: Callable[[ReferenceRead], None]) -> None:
        self._emit = emit
        self._orders: queue.Queue[tuple[ReadReference, ReferenceFormat]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="references", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def read(self, command: ReadReference, wanted: ReferenceFormat) -> None:
        """Reads an upload, soon; what came of it is reported."""
        self._orders.put((command, wanted))

    def _run(self) -> None:
        while True:
            command, wanted = self._orders.get()
            code, message = None, ""
            try:
                decode_apart(command, wanted)
            except UltraflashError as error:
                code, message = error.code, error.message
            except Exception:
                log.exception("an upload could not be read")
                code, message = JobFault.code, "The upload could not be read; the server's log says why."
            self._emit(ReferenceRead(check_id=command.check_id, code=code, message=message))


def decode_apart(command: ReadReference, wanted: ReferenceFormat) -> None:
    """Decodes an upload in a process of its own. Raises ``BadReference`` or ``ReferenceTooLarge``."""
    order = DecodeOrder(
        path=command.path,
        demuxer=command.demuxer,
        target=command.target,
        frames=wanted.frames,
        height=wanted.height,
        width=wanted.width,
        fps=wanted.fps,
        max_pixels=command.max_pixels,
        max_frames=command.max_frames,
        max_seconds=command.max_seconds,
        cpu_s=command.cpu_s,
    )
    try:
        done = subprocess.run(
            child_command("ultraflash.server.media.reference_decoder", order.to_json()),
            capture_output=True,
            timeout=PATIENCE * command.cpu_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReferenceTooLarge("Reading the file took too long; send a smaller one.") from error
    answer = done.stdout.decode().strip()
    if done.returncode == 0 and answer:
        said = json.loads(answer)
        if said["code"]:
            kind = ReferenceTooLarge if said["code"] == ReferenceTooLarge.code else BadReference
            raise kind(said["message"])
        return
    Path(command.target).unlink(missing_ok=True)
    log.warning("an upload ended its decoder (%s): %s", done.returncode, done.stderr.decode()[-2000:])
    raise BadReference(f"The file cannot be read, or takes too much to read. Send {ACCEPTED}.")
