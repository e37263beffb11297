"""The first groups of an engine: they make it warm, and show what each size costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ultraflash.models.errors import NotEnoughMemory
from ultraflash.server.engine import DetailChooser, Engine, GpuUser, PictureSize
from ultraflash.server.media.h264 import H264Config, H264Encoder
from ultraflash.server.worker.cost_book import CostBook
from ultraflash.server.worker.rungs import Rung, rungs_of

log = logging.getLogger(__name__)

# The first group of a stream is shorter than the others and finds nothing warm; the second one is measured.
GROUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmEngine:
    """An engine and what warming it up has shown.

    Attributes:
        costs: of the sizes that were measured.
        possible: names of the sizes that there is memory for, as far as is known.
    """

    engine: Engine
    costs: CostBook
    possible: tuple[str, ...]


def warm_up(engine: Engine, default_size: str, progress: Callable[[float], None]) -> WarmEngine:
    """Makes groups of every size, from small to large, up to the first one that is too slow for real time.

    Larger ones than that cost more; what they do is estimated from their pixels until a stream runs at one.

    Args:
        engine: just loaded.
        default_size: name of a size that is made warm in any case.
        progress: is told how far this has come, 0 to 1.
    """
    preset = engine.preset
    sizes = sorted(preset.sizes, key=lambda size: size.width * size.height)
    default = preset.size(default_size)
    costs = CostBook(
        {rung.name: rung.size.width * rung.size.height for rung in rungs_of(engine, sizes)[::-1]}
    )
    possible = [size.name for size in sizes]
    slow = False
    for place, size in enumerate(sizes):
        if slow and size.name != default.name:
            continue
        try:
            measured = _seconds_per_frame(engine, size)
        except NotEnoughMemory as error:
            if size.name == default.name:
                raise
            log.warning("size %s is not for streams that leave it open: %s", size.name, error.message)
            possible = possible[:place]
            break
        for rung, seconds in measured.items():
            costs.begin(rung.name, seconds)
        seconds = measured[Rung(size=size)]
        slow = slow or seconds * preset.fps > 1
        log.info("a frame of %s takes %.1f ms, which is %.1f fps", size.name, seconds * 1000, 1 / seconds)
        progress((place + 1) / len(sizes))
    return WarmEngine(engine=engine, costs=costs, possible=tuple(possible))


def _seconds_per_frame(engine: Engine, size: PictureSize) -> dict[Rung, float]:
    """By step of the size, of the last group at it of a short stream: what a stream's groups will take, whose frames
    are encoded meanwhile."""
    state = engine.open("warming up", size=size.name, seed=0)
    encoder = H264Encoder(H264Config.live(width=size.width, height=size.height, fps=engine.preset.fps))
    index = 0
    found: dict[Rung, float] = {}
    # An encoder takes cores from networks that run on them, and nothing from those on a GPU.
    beside = isinstance(engine, GpuUser) and bool(engine.gpu_memory())
    # All detail first, as a stream begins; then one group for each step below.
    rungs = rungs_of(engine, [size])[::-1]
    for rung in [rungs[0]] * (GROUPS - 1) + rungs:
        if isinstance(engine, DetailChooser):
            engine.set_sr_share(state, rung.sr_share)
        start = time.perf_counter()
        frames_THWC = np.asarray(engine.next_group(state))
        made = time.perf_counter()
        for frame_HWC in frames_THWC:
            encoder.encode(frame_HWC, index)
            index += 1
        making, encoding = made - start, time.perf_counter() - made
        found[rung] = (max(making, encoding) if beside else making + encoding) / len(frames_THWC)
    return found
