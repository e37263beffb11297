"""A real PostgreSQL for tests, where its program is installed."""

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

from ultraflash.server.errors import DataUnusable
from ultraflash.server.jobs.database import open_database


def postgres_programs() -> Path | None:
    """Folder of ``initdb`` and ``postgres``."""
    found = shutil.which("initdb") or shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def running_postgres() -> Iterator[str]:
    """URL of a PostgreSQL of its own on a socket in a folder of its own; skips the test where there is none."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:
        # It refuses to run as root.
        user = "postgres"
        if user not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    # Not below pytest's folder, which another user cannot enter.
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), Path(name) / "data"
        if user is not None:
            shutil.chown(folder, user)
        initdb = [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", folder]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options], user=user, cwd=folder, stderr=log
            )
        url = f"postgresql+psycopg://tester@/postgres?host={folder}"
        try:
            wait_for_database(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()


def wait_for_database(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no PostgreSQL:\n{log.read_text()}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        open_database(url).dispose()
    except DataUnusable:
        return False
    return True
