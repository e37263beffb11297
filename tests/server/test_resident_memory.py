"""Resident memory of processes."""

from __future__ import annotations

import os
import subprocess
import sys

from ultraflash.server.resident_memory import resident_bytes


def test_this_process_holds_some_memory() -> None:
    assert resident_bytes(os.getpid()) > 2**20


def test_a_process_that_has_ended_holds_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert resident_bytes(ended.pid) == 0
