"""Making a folder of numbered safetensors shards with worker processes, resumably.

A shard is a function of its number and the maker's settings, and its file is written whole or not at all. So a folder
that a kill left behind goes on with the numbers that are missing, on any number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
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
    """Make the shards ``numbers`` in ``folder`` as far as they are missing, and as far as ``minutes`` reach.

    ``name`` is what the progress lines call it. Returns False when a signal stopped it. Raises BadConfig if the folder
    was made with other settings, RuntimeError when a worker failed.
    """
    _claim(folder, maker.describe())
    missing = sorted(set(numbers) - set(shard_numbers(folder)))
    if not missing:
        return True
    context = multiprocessing.get_context("spawn")
    halt = context.Event()
    with RunLog(folder / "log", stage=name, resumed_at=0, tensorboard=False) as log, stop_on_signal() as stop:
        processes: list[BaseProcess] = []
        for worker in range(workers):
            process = context.Process(target=_work, args=(maker, folder, missing[worker::workers], halt))
            process.start()
            processes.append(process)
        try:
            _watch(folder, log, processes, stop, missing=missing, minutes=minutes)
        finally:
            halt.set()
            for process in processes:
                process.join()
        log.say(f"{len(shard_numbers(folder))} shards in {folder}")
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a worker of {name} failed; its traceback is above")
    return not stop.is_set()


def _work(maker: ShardMaker, folder: Path, numbers: Sequence[int], halt: Event) -> None:
    # The parent decides when to stop: a Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    make = maker.open()
    for number in numbers:
        if halt.is_set() or (parent is not None and not parent.is_alive()):
            return
        shard = make(number)
        data = save({name: tensor.contiguous() for name, tensor in shard.tensors.items()}, shard.metadata)
        write_atomically(shard_path(folder, number), data)


def _watch(
    folder: Path,
    log: RunLog,
    processes: Sequence[BaseProcess],
    stop: threading.Event,
    *,
    missing: Collection[int],
    minutes: float | None,
) -> None:
    """Report progress until the workers are done, one failed, the time is over, or a signal came."""
    started = time.monotonic()
    while any(process.is_alive() for process in processes):
        elapsed = time.monotonic() - started
        over = minutes is not None and elapsed > 60 * minutes
        if over or stop.is_set() or any(process.exitcode for process in processes):
            return
        made = len(set(missing) & set(shard_numbers(folder)))
        text = f"{made}/{len(missing)} shards, {elapsed / max(1, made):.1f} s a shard"
        log.progress(made / len(missing), elapsed=elapsed, text=text)
        stop.wait(0.5)


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
