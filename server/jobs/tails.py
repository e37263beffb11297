"""What extensions of finished videos go on from: the last checkpoint of each, where the engine can keep streams."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ultraflash.server.worker.job_checkpoint import CHECKPOINT, JOURNAL


class Tails:
    """Blocking; called from threads. A tail lives as long as the file of its video."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def coming_bytes(self, attempt: Path) -> int:
        """How large the tail of a finished attempt will be; 0 where it has none."""
        if not (attempt / CHECKPOINT).exists():
            return 0
        return sum((attempt / name).stat().st_size for name in (JOURNAL, CHECKPOINT))

    def keep(self, attempt: Path, job_id: str) -> None:
        """Moves the checkpoint of a finished attempt here, if it has one."""
        tail = self._root / job_id
        shutil.rmtree(tail, ignore_errors=True)
        if not (attempt / CHECKPOINT).exists():
            return
        tail.mkdir(parents=True)
        for name in (JOURNAL, CHECKPOINT):
            (attempt / name).rename(tail / name)

    def lend(self, job_id: str, folder: Path) -> Path | None:
        """Links a tail into a new folder, where it stays when the video is deleted; None where there is none."""
        tail = self._root / job_id
        if not (tail / CHECKPOINT).exists():
            return None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            for name in (JOURNAL, CHECKPOINT):
                os.link(tail / name, folder / name)
        except OSError:
            # It is being removed, or the file system has no links: the extension makes all of its frames.
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return folder

    def remove(self, job_id: str) -> None:
        """Removes a tail, if it is there."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)
