"""The newest states of live streams, kept in memory that outlives the worker: three files a stream in a tmpfs.

A state lies between two groups. It is written behind the last packet of its group, by the thread that has sent that
packet, so no file is ahead of what the web process has received from this worker. The files of a stream are
overwritten in turn, which is cheaper than new ones; a kill in the middle spoils one of them, and its checksum shows.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ultraflash.models.errors import UltraflashError
from ultraflash.server.engine import Engine, EngineState, StreamKeeper
from ultraflash.server.logs import fields

log = logging.getLogger(__name__)

# Whatever an owner has seen behind the first group when a server dies, one state is not ahead of it: groups of 0.75 s,
# of which there are two in the 1.5 s that a stream may be ahead, and the one before them.
SLOTS = 3
# Frames that a new worker makes once more at most before it goes on.
MOST_FRAMES_AGAIN = 240
_MAGIC = b"ufstream1"
# Magic, number of the next frame, groups made, bytes of the state, CRC-32 of those numbers and the state.
_HEADER = struct.Struct("<9sQQQI")
_NUMBERS = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """A stream between two groups.

    Attributes:
        state: the engine's, as it keeps it.
        next_index: number of the first frame behind it.
        groups: groups made by the engine's state so far.
        slot: which file it was read from.
    """

    state: bytes
    next_index: int
    groups: int
    slot: int | None = None


class SnapshotFiles:
    """The files of one stream; that of ``spared``, which the stream was made of, is overwritten last."""

    def __init__(self, folder: Path, stream_id: str, spared: StreamSnapshot | None) -> None:
        self._paths = slot_paths(folder, stream_id)
        self._turn = 0 if spared is None or spared.slot is None else (spared.slot + 1) % SLOTS

    def write(self, snapshot: StreamSnapshot) -> None:
        """Puts a snapshot into the place of the oldest one. Raises ``OSError``."""
        path, self._turn = self._paths[self._turn], (self._turn + 1) % SLOTS
        numbers = (snapshot.next_index, snapshot.groups, len(snapshot.state))
        check = zlib.crc32(snapshot.state, zlib.crc32(_NUMBERS.pack(*numbers)))
        pieces = (_HEADER.pack(_MAGIC, *numbers, check), snapshot.state)
        # What is behind the end of a shorter state stays: giving memory back and taking it again costs more.
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            offset = 0
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    written = os.pwrite(file, view, offset)
                    view, offset = view[written:], offset + written
        finally:
            os.close(file)

    def remove(self) -> None:
        """Leaves no snapshot of this stream behind."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def slot_paths(folder: Path, stream_id: str) -> list[Path]:
    """Where the files of a stream are."""
    return [folder / f"{stream_id}.{slot}" for slot in range(SLOTS)]


def find_snapshots(folder: Path, stream_id: str, first_index: int) -> list[StreamSnapshot]:
    """The whole snapshots of a stream from which frame ``first_index`` can be reached, the nearest one first.

    Behind those come the ones ahead of it: going on there leaves frames out.
    """
    read = [_read(path, slot) for slot, path in enumerate(slot_paths(folder, stream_id))]
    found = [
        snapshot for snapshot in read if snapshot and snapshot.next_index >= first_index - MOST_FRAMES_AGAIN
    ]
    return sorted(found, key=lambda one: (one.next_index > first_index, abs(one.next_index - first_index)))


def _read(path: Path, slot: int) -> StreamSnapshot | None:
    """The snapshot in a file, if there is a whole one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("the snapshot %s cannot be read: %s", path, error)
        return None
    if len(data) < _HEADER.size:
        return None
    magic, next_index, groups, length, check = _HEADER.unpack_from(data)
    state = data[_HEADER.size : _HEADER.size + length]
    numbers = _NUMBERS.pack(next_index, groups, length)
    if magic != _MAGIC or len(state) != length or zlib.crc32(state, zlib.crc32(numbers)) != check:
        log.warning("the snapshot %s is torn", path)
        return None
    return StreamSnapshot(state=state, next_index=next_index, groups=groups, slot=slot)


def load_newest(
    engine: Engine, snapshots: Iterable[StreamSnapshot], stream_id: str
) -> tuple[EngineState, StreamSnapshot] | None:
    """The first of these that the engine can go on with."""
    if not isinstance(engine, StreamKeeper):
        return None
    for snapshot in snapshots:
        state = _load(engine, snapshot, stream_id)
        if state is not None:
            return state, snapshot
    return None


def _load(engine: StreamKeeper, snapshot: StreamSnapshot, stream_id: str) -> EngineState | None:
    try:
        return engine.load_stream(snapshot.state)
    except UltraflashError as error:
        log.warning("a snapshot cannot be gone on with: %s", error.message, extra=fields(session=stream_id))
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRule:
    """What snapshots may cost.

    Attributes:
        folder: of the files; None keeps no stream.
        share: part of a stream's work that may go into them.
        max_bytes: of one snapshot; the engine leaves out what it can make again where there would be more.
    """

    folder: Path | None
    share: float
    max_bytes: int


class StreamKeeping:
    """Decides when a live stream is kept, and does it.

    A snapshot is due once the work since the one before is large enough beside what a snapshot costs: behind each
    group where that is cheap, behind every few where it is not. Its cost is processor time, since on a busy machine
    the clock would count what others do.
    """

    def __init__(self, files: SnapshotFiles, rule: SnapshotRule, stream_id: str) -> None:
        self._files = files
        self._rule = rule
        self._stream_id = stream_id
        self._capture_s = 0.0
        self._write_s = 0.0
        self._work_s = 0.0
        self._given_up = False

    def after_group(
        self, engine: Engine, state: EngineState, *, next_index: int, groups: int, work_s: float
    ) -> Callable[[], None] | None:
        """Captures the state if that is due; what is returned writes it, and may run on another thread.

        Args:
            engine: of the stream.
            state: of the stream, between two groups.
            next_index: number of the first frame behind it.
            groups: made by the state so far.
            work_s: seconds that the newest group took.
        """
        self._work_s += work_s
        cost_s = self._capture_s + self._write_s
        if self._given_up or not isinstance(engine, StreamKeeper) or cost_s > self._rule.share * self._work_s:
            return None
        start = time.thread_time()
        kept = engine.save_stream(state, self._rule.max_bytes)
        snapshot = StreamSnapshot(state=kept, next_index=next_index, groups=groups)
        self._capture_s, self._work_s = time.thread_time() - start, 0.0
        if len(snapshot.state) > self._rule.max_bytes:
            size = len(snapshot.state)
            self._give_up(
                f"its state has {size} bytes, and stream.snapshot_bytes allows {self._rule.max_bytes}"
            )
            return None
        return lambda: self._write(snapshot)

    def _write(self, snapshot: StreamSnapshot) -> None:
        if self._given_up:
            return
        start = time.thread_time()
        try:
            self._files.write(snapshot)
        except OSError as error:
            self._give_up(f"{error}; data.snapshots names another place for the files")
        self._write_s = time.thread_time() - start

    def _give_up(self, reason: str) -> None:
        """An old snapshot would be of no use, and none is no fault: the stream would start anew."""
        self._given_up = True
        log.warning("the stream is not kept any more: %s", reason, extra=fields(session=self._stream_id))
        self._files.remove()
