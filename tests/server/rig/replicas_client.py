"""What tests of replicas do over and over: find their processes, kill one, see who has which sessions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from live_server import LiveServer


def replica_ids(front: LiveServer) -> list[int]:
    """Process ids of the replicas, by number."""
    lines = [line for line in front.output().splitlines() if " is process " in line]
    newest = {
        line.split("replica ")[1].split()[0]: line.split(" is process ")[1].split()[0] for line in lines
    }
    return [int(newest[number]) for number in sorted(newest)]


def kill_replica(front: LiveServer, number: int) -> None:
    os.kill(replica_ids(front)[number], signal.SIGKILL)


def children(process: int) -> list[int]:
    """Process ids of what a process has started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    """Whether a process runs, other than as a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sessions_by_replica(front: LiveServer) -> dict[int, int]:
    """Live sessions of each replica."""
    return {one["number"]: one["sessions"] for one in front.get("/readyz")[1]["replicas"]}
