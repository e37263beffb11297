"""Making a folder of numbered safetensors shards with worker processes, resumably.

A shard is a function of its number and the maker's settings, and its file is written whole or not at all. So a folder
that a kill left behind goes on with the numbers that are missing, on any number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save

from ultraflash.models.errors import BadConfig
from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.loop import stop_on_signal
from ultraflash.training.run_log import RunLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Tensors that share their first axis, the items, and text that goes with them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


class ShardMaker(Protocol):
    """What a folder of shards is made of. Pickled to each worker, so it holds settings only."""

    def describe(self) -> dict[str, Any]:
        """JSON-able settings that fix every byte of every shard."""

    def open(self) -> Callable[[int], Shard]:
        """Load what making needs, in the worker; returns the function from number to shard."""


def shard_paths(folder: Path) -> list[Path]:
    """The complete shards of a folder, by number."""
    return sorted(folder.glob("shard-*.safetensors"))


def shard_path(folder: Path, number: int) -> Path:
    """Where shard ``number`` lies."""
    return folder / f"shard-{number:05d}.safetensors"


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of the complete shards of a folder, in order."""
    return [int(path.stem.split("-")[1]) for path in shard_paths(folder)]


def make_shards(
    maker: ShardMaker,
    folder: Path,
    *,
    name: str,
    numbers: Iterable[int],
    workers: int,
    minutes: float | None = None,
) -> bool:
    """Make the shards ``numbers`` in ``folder`` as far as they are missing, and as far as ``minutes`` from now reach.

    Args:
        maker: what they hold.
        folder: where they go.
        name: what the progress lines call it.
        numbers: which ones there should be.
        workers: processes of one thread each; 0 makes them in this process, which starts sooner.
        minutes: time limit, checked between shards.

    Returns:
        False when a signal stopped it.

    Raises:
        BadConfig: the folder was made with other settings.
        RuntimeError: a worker failed.
    """
    _claim(folder, maker.describe())
    missing = sorted(set(numbers) - set(shard_numbers(folder)))
    if not missing:
        return True
    deadline = time.monotonic() + (60 * minutes if minutes is not None else float("inf"))
    with RunLog(folder / "log", stage=name, resumed_at=0, tensorboard=False) as log, stop_on_signal() as stop:
        report = _Report(folder, missing, log)
        if workers == 0:
            _make(maker, folder, missing, lambda: report() or stop.is_set() or time.monotonic() > deadline)
        else:
            _make_with_workers(maker, folder, missing, workers, lambda: report() or stop.wait(0.5), deadline)
        log.say(f"{len(shard_numbers(folder))} shards in {folder}")
    return not stop.is_set()


class _Report:
    """Tells how far the missing shards are; the call returns False, so that it fits into a condition."""

    def __init__(self, folder: Path, missing: Collection[int], log: RunLog) -> None:
        self._folder, self._missing, self._log = folder, set(missing), log
        self._started = time.monotonic()

    def __call__(self) -> bool:
        elapsed = time.monotonic() - self._started
        made = len(self._missing & set(shard_numbers(self._folder)))
        text = f"{made}/{len(self._missing)} shards, {elapsed / max(1, made):.1f} s a shard"
        self._log.progress(made / len(self._missing), elapsed=elapsed, text=text)
        return False


def _make(maker: ShardMaker, folder: Path, numbers: Sequence[int], stopped: Callable[[], bool]) -> None:
    make = maker.open()
    for number in numbers:
        if stopped():
            return
        shard = make(number)
        data = save({name: tensor.contiguous() for name, tensor in shard.tensors.items()}, shard.metadata)
        write_atomically(shard_path(folder, number), data)


def _make_with_workers(
    maker: ShardMaker,
    folder: Path,
    numbers: Sequence[int],
    workers: int,
    pause: Callable[[], bool],
    deadline: float,
) -> None:
    """Share the shards out and wait until they are done, ``pause`` says stop, a worker fails or the time is over."""
    context = multiprocessing.get_context("spawn")
    halt = context.Event()
    processes: list[BaseProcess] = []
    for worker in range(workers):
        process = context.Process(target=_work, args=(maker, folder, numbers[worker::workers], halt))
        process.start()
        processes.append(process)
    try:
        while any(process.is_alive() for process in processes) and time.monotonic() <= deadline:
            if pause() or any(process.exitcode for process in processes):
                break
    finally:
        halt.set()
        for process in processes:
            process.join()
    # A signal to the whole group may end a worker before it can ignore it: then it was no failure.
    if any(process.exitcode for process in processes) and not pause():
        raise RuntimeError(f"a worker that made {folder} failed; its traceback is above")


def _work(maker: ShardMaker, folder: Path, numbers: Sequence[int], halt: Event) -> None:
    """Body of a worker process."""
    # The parent decides when to stop: Ctrl-C and a service manager's SIGTERM reach the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    _make(maker, folder, numbers, lambda: halt.is_set() or (parent is not None and not parent.is_alive()))


def _claim(folder: Path, description: dict[str, Any]) -> None:
    """Write ``shards.json``; refuse a folder that was made with other settings."""
    path = folder / "shards.json"
    asked = json.loads(json.dumps(description))
    if path.exists():
        there = json.loads(path.read_text())
        different = sorted(key for key in asked | there if asked.get(key) != there.get(key))
        if different:
            raise BadConfig(
                f"{folder} was made with other settings ({', '.join(different)}); delete it or use another --run-dir"
            )
    write_atomically(path, (json.dumps(asked, indent=2) + "\n").encode())
