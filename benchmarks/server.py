"""Load on a real server over loopback: M owners who play and steer, N viewers who watch them.

    python benchmarks/server.py --owners 2 --viewers 16 --minutes 2             # the table
    python benchmarks/server.py --owners 1 --viewers 8 --minutes 30 --json benchmarks/results/server.json

The server is a process of its own, with a worker of its own, as ``ultraflash serve`` starts it. Owners play in real
time, acknowledge what they have seen, and change the prompt now and then. First they are alone for a while, then the
viewers join: what that adds to the processor time of the web process is what viewers cost. Reported are

- deadline misses: frames that came after the moment at which a player that had gathered ``--lead-ms`` needed them;
- prompt to frame: from sending a prompt to receiving the first frame that shows it, and to seeing that frame;
- glass latency: from the moment a frame left the networks to the moment a player shows it;
- processor seconds of the web process per second and viewer, and the slope of the resident memory of both processes.

A stream that is wrong (a gap, a time stamp that is not exact, a refusal) ends the run instead of being timed. Players
decode nothing, so that they leave the processor to the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import websockets
from players import Owner, Seen, Watcher, WrongStream
from playout import slope
from provenance import provenance

MAIN = "from ultraflash.server.cli import main; raise SystemExit(main())"
READY_S = 600.0
SAMPLE_S = 1.0
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to drive.

    Args:
        owners, viewers: how many; viewers are spread over the owners' sessions.
        seconds: with all of them.
        alone_s: before that, with the owners alone.
        lead_ms: media that a player gathers before it begins.
        prompt_every_s: between two changes of an owner's prompt.
        engine, preset, size: of the server; engine and preset as it has them by default if None.
    """

    owners: int
    viewers: int
    seconds: float
    alone_s: float
    lead_ms: float
    prompt_every_s: float
    engine: str | None
    preset: str | None
    size: str

    def __post_init__(self) -> None:
        if self.owners < 1 or self.viewers < 0 or min(self.seconds, self.alone_s) <= 0:
            raise ValueError("at least one owner and some time are needed")


class ServerProcess:
    """``ultraflash serve`` on a free port, with a folder of data that goes with it."""

    def __init__(self, load: Load, folder: Path) -> None:
        self._log = folder / "server.log"
        environment = dict(os.environ)
        environment |= {
            "ULTRAFLASH_DATA__FOLDER": str(folder / "data"),
            "ULTRAFLASH_STREAM__MAX_STREAMS": str(load.owners),
            "ULTRAFLASH_STREAM__MAX_VIEWERS": str(max(load.viewers, 1)),
        }
        if load.engine is not None:
            environment["ULTRAFLASH_ENGINE"] = load.engine
        preset = [] if load.preset is None else ["--preset", load.preset]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "serve", "--port", "0", *preset],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.address = ""

    def wait_until_ready(self) -> None:
        """Raises ``WrongStream`` when the server ends or takes too long instead."""
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise WrongStream(f"no server:\n{self._log.read_text()}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        if not self.address:
            said = self._log.read_text().partition("http://")[2]
            if "/" not in said and "\n" not in said:
                return False
            self.address = said.split()[0].split("/")[0]
        try:
            with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def processes(self) -> dict[str, int]:
        """Process ids of the web process and its worker."""
        web = self._process.pid
        children = Path(f"/proc/{web}/task/{web}/children").read_text().split()
        return {"web": web, "worker": int(children[0])}

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Crew:
    """Tasks beside the measurement, which the first one that ends, ends."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, *work: Coroutine[Any, Any, None]) -> None:
        """Begins some work."""
        self._tasks += [asyncio.create_task(one) for one in work]

    async def during(self, seconds: float) -> None:
        """Waits. Raises what a task has raised."""
        done, _ = await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            raise WrongStream("a player ended before its time")

    async def end(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def seat_owners(load: Load, address: str, seen: Seen, crew: Crew) -> list[Owner]:
    """Starts the owners one after the other; those that have begun play meanwhile."""
    owners: list[Owner] = []
    for number in range(load.owners):
        socket = await websockets.connect(f"ws://{address}/v1/stream", max_size=None)
        owner = Owner(socket, seen, lead_s=load.lead_ms / 1000)
        await owner.start(size=load.size, seed=number)
        crew.add(owner.listen(), owner.acknowledge(), owner.steer(load.prompt_every_s))
        owners.append(owner)
    return owners


async def watch(load: Load, address: str, owner: Owner, seen: Seen) -> None:
    """One viewer, until cancelled."""
    session, token = owner.started["session_id"], owner.started["viewer_token"]
    url = f"ws://{address}/v1/stream/{session}?token={token}"
    async with websockets.connect(url, max_size=None) as socket:
        viewer = Watcher(socket, seen, lead_s=load.lead_ms / 1000)
        while True:
            await viewer.receive()


async def sample(processes: dict[str, int], memory: dict[str, list[tuple[float, float]]]) -> None:
    """Notes the memory of all processes, in MiB by minutes, until cancelled."""
    while True:
        now = time.monotonic() / 60
        for name, pid in processes.items():
            memory[name].append((now, resident_bytes(pid) / MIB))
        await asyncio.sleep(SAMPLE_S)


async def drive(load: Load, server: ServerProcess) -> dict[str, Any]:
    """Runs the load; numbers ready for JSON."""
    processes = server.processes()
    owned, viewed, crew = Seen(), Seen(), Crew()
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    try:
        owners = await seat_owners(load, server.address, owned, crew)
        alone = await _cpu_share(processes, load.alone_s, crew)
        owned.begin()
        for number in range(load.viewers):
            crew.add(watch(load, server.address, owners[number % len(owners)], viewed))
        crew.add(sample(processes, memory))
        together = await _cpu_share(processes, load.seconds, crew)
    finally:
        await crew.end()
    if server.processes() != processes:
        raise WrongStream("the worker was replaced during the run")
    added = (together["web"] - alone["web"]) / load.viewers if load.viewers else None
    return {
        "owners": owned.summary(),
        "viewers": viewed.summary(),
        "cpu_share": {"owners_alone": alone, "all": together},
        "web_cpu_s_per_viewer_s": _rounded(added, 5),
        "memory": {name: _memory_summary(samples) for name, samples in memory.items()},
    }


def _memory_summary(samples: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "first_mib": round(samples[0][1], 1),
        "last_mib": round(samples[-1][1], 1),
        "slope_mib_per_minute": _rounded(slope(samples), 3),
    }


async def _cpu_share(processes: dict[str, int], seconds: float, crew: Crew) -> dict[str, float]:
    """Processor seconds per second of each process over a time."""
    before, start = {name: cpu_seconds(pid) for name, pid in processes.items()}, time.monotonic()
    await crew.during(seconds)
    passed = time.monotonic() - start
    return {name: round((cpu_seconds(pid) - before[name]) / passed, 4) for name, pid in processes.items()}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def table(load: Load, result: dict[str, Any]) -> str:
    """The numbers as people read them."""
    lines = [f"{load.owners} owners, {load.viewers} viewers, {load.seconds:g} s at {load.size}", ""]
    lines += ["| | frames | late | stalled s | glass ms p50 / p95 / p99 | prompt to frame ms p50 / p95 |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in ("owners", "viewers"):
        numbers = result[name]
        glass, prompt = numbers["glass_ms"], numbers["prompt_to_frame_ms"]
        lines.append(
            f"| {name} | {numbers['frames']} | {numbers['deadline_misses']} | {numbers['stalled_s']} "
            f"| {_points(glass, 'p50', 'p95', 'p99')} | {_points(prompt, 'p50', 'p95')} |"
        )
    lines += ["", f"web process, CPU seconds per viewer second: {result['web_cpu_s_per_viewer_s']}"]
    for name, numbers in result["memory"].items():
        lines.append(
            f"{name}: {numbers['first_mib']} MiB to {numbers['last_mib']} MiB, "
            f"{numbers['slope_mib_per_minute']} MiB a minute"
        )
    return "\n".join(lines)


def _points(numbers: dict[str, Any], *names: str) -> str:
    return " / ".join(f"{numbers[name]:.0f}" for name in names) if numbers["n"] else "-"


def main() -> None:
    """Drives the load and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--owners", type=int, default=1)
    parser.add_argument("--viewers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=2.0, help="with the viewers")
    parser.add_argument("--alone-s", type=float, default=20.0, help="before that, without them")
    parser.add_argument("--lead-ms", type=float, default=500.0, help="media that a player gathers first")
    parser.add_argument("--prompt-every-s", type=float, default=10.0)
    parser.add_argument("--engine", help="factory of the engine, module:attribute (default: the cascade)")
    parser.add_argument("--preset", help="of the server")
    parser.add_argument("--size", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    load = Load(
        owners=args.owners,
        viewers=args.viewers,
        seconds=args.minutes * 60,
        alone_s=args.alone_s,
        lead_ms=args.lead_ms,
        prompt_every_s=args.prompt_every_s,
        engine=args.engine,
        preset=args.preset,
        size=args.size,
    )
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(load, Path(folder))
        try:
            server.wait_until_ready()
            result = asyncio.run(drive(load, server))
        finally:
            server.stop()
    print(table(load, result))
    if args.json is not None:
        settings = {name: getattr(load, name) for name in Load.__dataclass_fields__}
        document = {**provenance(), "load": settings, **result}
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
