"""Entry of the worker process. It is started with one end of a socket pair and told the rest through it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from functools import partial

from ultraflash.models.errors import UltraflashError
from ultraflash.server.engine import chosen_preset, load_engine
from ultraflash.server.logs import set_up_logging
from ultraflash.server.tracing import open_tracer
from ultraflash.server.worker.channel import BlockingChannel, ChannelClosed
from ultraflash.server.worker.loop import WorkerLoop
from ultraflash.server.worker.messages import (
    Command,
    Configure,
    Report,
    WorkerFailed,
    WorkerProgress,
    WorkerReady,
)
from ultraflash.server.worker.stream_sizes import StreamSizes
from ultraflash.server.worker.warm_up import WarmEngine, warm_up

log = logging.getLogger(__name__)

LOADED = 0.4


def main() -> None:
    """Serves the channel of two file descriptors, given as arguments: to read from and to write to."""
    # A Ctrl-C in the terminal reaches both processes; the web process decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = BlockingChannel(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3]))
    try:
        config = channel.receive()
        if not isinstance(config, Configure):
            raise ValueError("The first command must be Configure.")
        set_up_logging("worker", level=config.log_level, form=config.log_format, replica=config.replica)
        serve(channel, config)
    except ChannelClosed:
        log.info("the web process has gone")


def serve(channel: BlockingChannel, config: Configure) -> None:
    """Loads the engine, warms it up and works."""
    try:
        warm = _ready_engine(channel, config)
    except UltraflashError as error:
        channel.send(WorkerFailed(code=error.code, message=error.message))
        return
    commands: queue.Queue[Command] = queue.Queue()
    tracer = open_tracer(
        "worker",
        exporter=config.trace_exporter,
        endpoint=config.trace_endpoint,
        folder=config.trace_folder,
    )
    sizes = StreamSizes(
        warm.engine,
        possible=warm.possible,
        largest=config.size,
        adapt_named=config.adapt_named_sizes,
        raise_after_s=config.raise_after_s,
        costs=warm.costs,
        clock=time.monotonic,
    )
    loop = WorkerLoop(warm.engine, config, sizes, commands, partial(_emit, channel), tracer=tracer)
    reader = threading.Thread(target=_read, args=(channel, commands), name="commands", daemon=True)
    reader.start()
    channel.send(describe(warm, config))
    loop.run()
    tracer.close()


def describe(warm: WarmEngine, config: Configure) -> WorkerReady:
    """What the web process tells clients about this engine."""
    preset = warm.engine.preset
    return WorkerReady(
        model=preset.name,
        fps=preset.fps,
        sizes=[[size.name, size.width, size.height] for size in preset.sizes],
        default_size=preset.size(config.size or preset.default_size).name,
        max_prompt_chars=preset.max_prompt_chars,
        frame_seconds=warm.costs.all_seconds(),
    )


def _ready_engine(channel: BlockingChannel, config: Configure) -> WarmEngine:
    channel.send(WorkerProgress(stage="loading weights", progress=0.0))
    preset = chosen_preset(config.engine, config.preset, config.size, log.info)
    engine = load_engine(config.engine, preset, config.size)

    def tell(done: float) -> None:
        channel.send(WorkerProgress(stage="warming up", progress=LOADED + (1 - LOADED) * done))

    tell(0.0)
    return warm_up(engine, config.size or engine.preset.default_size, tell)


def _read(channel: BlockingChannel, commands: queue.Queue[Command]) -> None:
    try:
        while True:
            commands.put(channel.receive())  # type: ignore[arg-type]
    except ChannelClosed:
        _leave()


def _emit(channel: BlockingChannel, report: Report) -> None:
    """Sends a report, from whichever thread has one."""
    try:
        channel.send(report)
    except ChannelClosed:
        _leave()


def _leave() -> None:
    """Ends the process: nobody is left to hear of the group in work, and nothing here needs to be kept."""
    os._exit(0)
