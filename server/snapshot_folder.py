"""The folder in which the worker keeps the states of live streams: one for each life of a server, in memory.

It belongs to the web process, which outlives the worker: it makes the folder, removes what belongs to no session any
more, and takes the folder away at the end. What a killed server has left is taken over by the next one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ultraflash.server.errors import DataUnusable
from ultraflash.server.ownership import surely_gone
from ultraflash.server.settings import DataSettings
from ultraflash.server.worker.stream_snapshot import slot_paths

log = logging.getLogger(__name__)

IN_MEMORY = Path("/dev/shm")
START = ".start"


class SnapshotFolder:
    """Blocking, but for a few small calls to a file system in memory.

    Args:
        root: folder of all servers of one database.
        me: name of this life of this server.
    """

    def __init__(self, root: Path, me: str) -> None:
        self.path = root / me
        self._root = root
        self._me = me
        self._expected: set[str] = set()

    def open(self) -> None:
        """Makes the folder. Raises ``OSError``."""
        self.path.mkdir(parents=True, mode=0o700)

    def adopt(self, session_id: str, owner: str) -> None:
        """Takes over what a life before this one has left of a stream."""
        before = self._root / owner
        for left in (*slot_paths(before, session_id), before / f"{session_id}{START}"):
            if left.exists():
                left.rename(self.path / left.name)

    def start_path(self, session_id: str) -> Path:
        """Where the frames lie that a session starts from, if it starts from any."""
        return self.path / f"{session_id}{START}"

    def keep_start(self, session_id: str, frames: Path) -> Path:
        """Copies the frames that a session starts from to their place. Raises ``DataUnusable``."""
        try:
            return Path(shutil.copyfile(frames, self.start_path(session_id)))
        except OSError as error:
            raise DataUnusable(
                f"The picture cannot be kept: {error.strerror}. Start without image, or have the server's setting "
                "data.snapshots changed.",
                param="image",
            ) from error

    @contextmanager
    def expecting(self, session_id: str) -> Iterator[None]:
        """Within the block the states of a session stay that is on its way here, and not yet among the live ones."""
        self._expected.add(session_id)
        try:
            yield
        finally:
            self._expected.discard(session_id)

    def keep_only(self, session_ids: Collection[str]) -> None:
        """Removes what belongs to none of these sessions."""
        if not self.path.exists():
            return
        for path in list(self.path.iterdir()):
            if path.stem not in session_ids and path.stem not in self._expected:
                path.unlink(missing_ok=True)

    def left_by_the_gone(self) -> set[str]:
        """Ids of the sessions whose states lie where servers have left them that are surely gone."""
        return {path.stem for folder in self._of_the_gone() for path in _files(folder)}

    def forget_the_gone(self, session_ids: Collection[str]) -> None:
        """Removes the states of these sessions, and no others, from where servers have left them that are surely gone.

        One that has died only just has left some that are still to be fetched.
        """
        for folder in self._of_the_gone():
            for path in _files(folder):
                if path.stem in session_ids:
                    path.unlink(missing_ok=True)
            # Others may do the same at this moment.
            with suppress(OSError):
                folder.rmdir()

    def _of_the_gone(self) -> list[Path]:
        return [folder for folder in list(self._root.iterdir()) if surely_gone(folder.name, self._me)]

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        # Others may be in it, come into it or remove it meanwhile.
        with suppress(OSError):
            self._root.rmdir()


def _files(folder: Path) -> list[Path]:
    """What is in a folder that another server may just be removing."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def snapshot_root(data: DataSettings) -> Path:
    """Where the servers of one database keep states: as set, else in memory, else in the folder of data."""
    if data.snapshots is not None:
        return data.snapshots.absolute()
    database = hashlib.sha256(data.database_url.encode()).hexdigest()[:16]
    mine = IN_MEMORY / f"ultraflash-{os.geteuid()}"
    return (mine if _is_mine(mine) else data.folder.absolute() / "streams") / database


def _is_mine(folder: Path) -> bool:
    """Whether a folder is this user's alone; it is made where it is missing. Anybody can write beside it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        log.warning("states of live streams are not kept in memory: %s", error)
        return False
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if not private:
        log.warning("states of live streams are not kept in memory: %s is not this user's alone", folder)
    return private
