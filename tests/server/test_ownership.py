"""A server knows which others are gone, also those whose process id has been given to another process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ultraflash.server.ownership import own_name, surely_gone

NAME = "from ultraflash.server.ownership import own_name; print(own_name(), flush=True); input()"


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that waits, and its name."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_server_is_gone_when_its_process_is(other: tuple[subprocess.Popen[str], str]) -> None:
    process, name = other
    me = own_name()
    assert not surely_gone(me, me)
    assert not surely_gone(name, me)
    process.kill()
    process.wait()
    assert surely_gone(name, me)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_another_process_of_the_same_id_is_not_taken_for_the_server(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    _, name = other
    host, process, life = name.rsplit(":", 2)
    pid, _, began = process.partition(".")
    assert surely_gone(f"{host}:{pid}.{int(began) - 1}:{life}", own_name())


def test_a_name_without_its_beginning_is_that_of_whatever_runs() -> None:
    me = own_name()
    assert not surely_gone(f"{socket.gethostname()}:{os.getppid()}:aa", me)
    assert surely_gone(f"{socket.gethostname()}:{2**22 + 1}:aa", me)


def test_an_earlier_life_of_this_process_is_over_and_one_elsewhere_is_not_known_to_be() -> None:
    me = own_name()
    assert surely_gone(own_name(), me)
    for owner in ("elsewhere:1:aa", "elsewhere:1.7:aa", "nonsense", f"{socket.gethostname()}:x.y:aa"):
        assert not surely_gone(owner, me)
