"""A PostgreSQL of its own, on a socket in a folder of its own, which can go away and come back."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ultraflash.server.database import open_database
from ultraflash.server.errors import DataUnusable

PATIENCE_S = 300.0
ACCOUNT = "postgres"


def postgres_programs() -> Path | None:
    """Folder of ``initdb`` and ``postgres``."""
    found = shutil.which("initdb") or shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def why_no_postgres() -> str | None:
    """What is missing here for one, or None."""
    if postgres_programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"PostgreSQL does not run as root, and there is no user {ACCOUNT!r}"
    return None


class Postgres:
    """One cluster.

    Args:
        folder: empty, and one that other users can enter, unlike pytest's.
    """

    def __init__(self, folder: Path) -> None:
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        self._folder = folder
        # It refuses to run as root.
        self._user = ACCOUNT if os.geteuid() == 0 else None
        self.url = f"postgresql+psycopg://tester@/postgres?host={folder}"
        if self._user is not None:
            shutil.chown(folder, self._user)
        initdb = [programs / "initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, user=self._user, cwd=folder, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", self._folder]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                user=self._user,
                cwd=self._folder,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no PostgreSQL:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends it at once, with all connections."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()

    def _answers(self) -> bool:
        try:
            open_database(self.url).dispose()
        except DataUnusable:
            return False
        return True


def running_postgres() -> Iterator[str]:
    """URL of one while it is wanted; skips the test where there can be none."""
    if missing := why_no_postgres():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(Path(folder))
        postgres.start()
        try:
            yield postgres.url
        finally:
            postgres.stop()
