"""Folders of videos in the making: one for each life of a server, and in it one for each attempt at a job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ultraflash.server.jobs.tails import Tails
from ultraflash.server.ownership import surely_gone
from ultraflash.server.worker.job_checkpoint import CHECKPOINT

BEFORE = ".before"


class WorkFolders:
    """Blocking; called from threads, by one at a time."""

    def __init__(self, root: Path, me: str, tails: Tails) -> None:
        self._root = root
        self._me = me
        self._mine = root / me
        self._tails = tails

    def prepare(self, job_id: str, source_id: str | None) -> tuple[Path, Path | None]:
        """An empty folder for an attempt, and one to go on from, if there is one.

        The latter is that of the attempt before, or has the tail of the video that is to be extended. It is only
        read from then on, so that a worker that still writes into it does no harm.
        """
        folder, before = self._mine / job_id, self._mine / f"{job_id}{BEFORE}"
        if folder.exists():
            # An attempt that did not get to a checkpoint is worth less than the one before it.
            useless = folder if before.exists() and not (folder / CHECKPOINT).exists() else before
            shutil.rmtree(useless, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        folder.mkdir(parents=True)
        if not before.exists() and source_id is not None:
            self._tails.lend(source_id, before)
        return folder, before if before.exists() else None

    def remove(self, job_id: str) -> None:
        """Removes all attempts at a job."""
        for name in (job_id, f"{job_id}{BEFORE}"):
            shutil.rmtree(self._mine / name, ignore_errors=True)

    def tidy(self, is_waiting: Callable[[str], bool]) -> None:
        """Takes over the attempts of servers that are gone, and removes those at jobs that wait for none."""
        self._mine.mkdir(parents=True, exist_ok=True)
        for left in list(self._root.iterdir()):
            if surely_gone(left.name, self._me):
                self._adopt(left)
        for attempt in list(self._mine.iterdir()):
            if not is_waiting(attempt.name.removesuffix(BEFORE)):
                shutil.rmtree(attempt, ignore_errors=True)

    def _adopt(self, left: Path) -> None:
        """Another server that is left may do so at the same time; each attempt goes to one of them."""
        attempts: list[Path] = []
        with suppress(FileNotFoundError):
            attempts = list(left.iterdir())
        for attempt in attempts:
            taken = self._mine / attempt.name
            if not taken.exists():
                with suppress(FileNotFoundError):
                    attempt.rename(taken)
        shutil.rmtree(left, ignore_errors=True)
