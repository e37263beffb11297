"""Generating a stream's next group in the background while the pictures of this one are made.

The base generator of group k+1 needs nothing of upsampler, super-resolution and decoder of group k, so both run at the
same time: two streams of a GPU, or two threads of a CPU. Both are done when a group is handed out, so nothing runs
between two groups, and a stream is closed, paused or kept as ever.

What was generated ahead is put aside, and the stream itself is as if it had not been: only the buffers of its window
are further. Whatever makes the next group another one, such as a new prompt, takes them back to where they were
(:func:`rewind`), and the next group is generated as without overlap. Hence the same frames in either case, bit for bit.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ultraflash.models.ring_cache import RingMark
from ultraflash.models.stream_state import StreamState

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class WindowMark:
    """A stream's window as it was: what generating one more group is undone with. A stream keeps its buffers."""

    cache: RingMark
    latents_BCFHW: Tensor
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A group whose base latents are there before it is asked for.

    Attributes:
        latents_BCFHW: clean base latents.
        after: the stream behind them, as far as the base is concerned.
    """

    latents_BCFHW: Tensor
    after: StreamState


def mark(state: StreamState, frames: int) -> None:
    """Note where a stream's window stands, and copy what ``frames`` more latent frames will overwrite."""
    buffer_BCFHW, fields = state.window.capture()
    if state.undo is None:
        state.undo = WindowMark(
            cache=state.base_cache.spare(frames), latents_BCFHW=torch.empty_like(buffer_BCFHW)
        )
    state.base_cache.mark(frames, state.undo.cache)
    state.undo.latents_BCFHW.copy_(buffer_BCFHW)
    state.undo.fields = fields


def rewind(state: StreamState) -> None:
    """Take a stream's window back to where it was noted."""
    before = _noted(state)
    state.base_cache.rewind(before.cache)
    state.window.restore(before.latents_BCFHW, **before.fields)


@contextmanager
def ahead_set_aside(state: StreamState) -> Iterator[None]:
    """Within the block a stream's window is as if nothing had been generated ahead; then that is there again."""
    if state.ahead is None:
        yield
        return
    _trade(state)
    try:
        yield
    finally:
        _trade(state)


def _trade(state: StreamState) -> None:
    """Exchange a stream's window with what was noted of it."""
    before = _noted(state)
    state.base_cache.trade(before.cache)
    buffer_BCFHW, fields = state.window.capture()
    latents_BCFHW = buffer_BCFHW.clone()
    state.window.restore(before.latents_BCFHW, **before.fields)
    before.latents_BCFHW.copy_(latents_BCFHW)
    before.fields = fields


def _noted(state: StreamState) -> WindowMark:
    assert state.undo is not None
    return state.undo


def adopt(state: StreamState, after: StreamState) -> None:
    """Let a stream be what the base made of it."""
    state.prompt_context = after.prompt_context
    state.blend = after.blend
    state.spread = after.spread
    state.reference_BCFHW = after.reference_BCFHW
    state.steps_saved = after.steps_saved
    state.refreshes_skipped = after.refreshes_skipped


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all calls: torch keeps freed memory by stream, and does not give that of one to another."""
    return torch.cuda.Stream(device)


class Background(Generic[T]):
    """A call on a thread of its own while the block below ``with`` runs; both have ended behind it.

    On a GPU the call has a stream of its own too, which starts from what is queued on the present one. It has a thread
    in either case: one thread could not feed two streams, since some steps wait for the device.
    """

    def __init__(self, device: torch.device, call: Callable[[], T]) -> None:
        self._call = call
        self._streams = (
            (torch.cuda.current_stream(device), _side_stream(device)) if device.type == "cuda" else None
        )
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="base-ahead", daemon=True)

    def __enter__(self) -> Background[T]:
        if self._streams is not None:
            here, there = self._streams
            there.wait_stream(here)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def _join(self) -> None:
        """Waits for the thread, and queues what comes behind all that it has queued, whether or not that went well:
        what it writes to may go back to the pool next."""
        self._thread.join()
        if self._streams is not None:
            here, there = self._streams
            here.wait_stream(there)

    def _run(self) -> None:
        try:
            with torch.cuda.stream(self._streams[1]) if self._streams is not None else nullcontext():
                self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def result(self) -> T:
        """What the call returns, waiting for it; what it raises is raised here."""
        self._join()
        if self._error is not None:
            raise self._error
        return self._results[0]
