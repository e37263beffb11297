"""Sizes of live streams: with which one a stream begins, and when it gets another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ultraflash.server.engine import EnginePreset, PictureSize
from ultraflash.server.worker.cost_book import CostBook
from ultraflash.server.worker.live_stream import LiveStream, SizeChange
from ultraflash.server.worker.messages import AUTO
from ultraflash.server.worker.quality import QualityPolicy, StreamLoad, largest_that_fits

# What happens once and says nothing about the groups to come.
ONE_OFF_STAGES = ("resize", "prompt")


class StreamSizes:
    """Measures what streams cost and lets the policy decide about those whose size may change.

    Args:
        preset: of the engine.
        possible: names of the sizes that there is memory for, which ``auto`` chooses from.
        largest: that ``auto`` may choose.
        adapt_named: whether a stream that asked for a size by name may get a smaller one under load.
        raise_after_s: time for which a larger size must have fitted before a stream gets it.
        costs: what is known so far.
        clock: seconds.
    """

    def __init__(
        self,
        preset: EnginePreset,
        *,
        possible: Sequence[str],
        largest: str | None,
        adapt_named: bool,
        raise_after_s: float,
        costs: CostBook,
        clock: Callable[[], float],
    ) -> None:
        self.costs = costs
        self._preset = preset
        self._sizes = sorted(preset.sizes, key=_pixels)
        self._possible = frozenset(possible)
        self._largest = None if largest is None else preset.size(largest)
        self._adapt_named = adapt_named
        self._policy = QualityPolicy(raise_after_s=raise_after_s, clock=clock)

    def choose(self, asked: str, fps: float, others: Iterable[LiveStream]) -> PictureSize:
        """The size of a stream that asks for one by name, or for ``auto``, beside others. Raises ``UnknownSize``."""
        if asked != AUTO:
            return self._preset.size(asked)
        sizes = self._sizes_of(AUTO)
        taken = sum(self._load(self._next_size(other), other.fps) for other in others if _works(other))
        return sizes[largest_that_fits([self._load(size, fps) for size in sizes], taken)]

    def measured(self, stream: LiveStream, seconds: float) -> None:
        """A group of a stream has taken so long; the first one is shorter than the others and does not count."""
        if stream.groups > 1 and stream.group_frames:
            once = sum(stream.state.stage_seconds.get(stage, 0.0) for stage in ONE_OFF_STAGES)
            self.costs.measured(stream.size.name, max(0.0, seconds - once) / stream.group_frames)

    def adapt(self, streams: Iterable[LiveStream]) -> None:
        """Lets a stream change its size with its next group, if it is time for that."""
        working = {stream.stream_id: stream for stream in streams if _works(stream)}
        step = self._policy.step([self._demand(stream) for stream in working.values()])
        if step is not None:
            stream = working[step.key]
            size = self._sizes_of(stream.asked)[step.place]
            stream.new_size = SizeChange(event_id="", size=size, asked=stream.asked, reason=step.reason)

    def _demand(self, stream: LiveStream) -> StreamLoad:
        size = self._next_size(stream)
        # A change on its way is left to happen, above all one that the owner has asked for.
        adapts = stream.new_size is None and (stream.asked == AUTO or self._adapt_named)
        sizes = self._sizes_of(stream.asked) if adapts else [size]
        names = [one.name for one in sizes]
        if size.name not in names:
            # Chosen by a worker that had more memory.
            sizes = sorted([*sizes, size], key=_pixels)
            names = [one.name for one in sizes]
        return StreamLoad(
            key=stream.stream_id,
            loads=tuple(self._load(one, stream.fps) for one in sizes),
            place=names.index(size.name),
            adapts=adapts,
            misses=stream.playout.misses,
        )

    def _sizes_of(self, asked: str) -> list[PictureSize]:
        """Sizes that a stream may have, small to large; never none."""
        largest = self._largest if asked == AUTO else self._preset.size(asked)
        limit = None if largest is None else _pixels(largest)
        return [
            size
            for place, size in enumerate(self._sizes)
            if place == 0
            or ((limit is None or _pixels(size) <= limit) and (asked != AUTO or size.name in self._possible))
        ]

    def _load(self, size: PictureSize, fps: float) -> float:
        return self.costs.seconds(size.name) * fps

    def _next_size(self, stream: LiveStream) -> PictureSize:
        return stream.size if stream.new_size is None else stream.new_size.size


def _pixels(size: PictureSize) -> int:
    return size.width * size.height


def _works(stream: LiveStream) -> bool:
    return not stream.playhead.paused
