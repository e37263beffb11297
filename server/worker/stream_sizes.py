"""Sizes and detail of live streams: with which a stream begins, and when it gets others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ultraflash.server.engine import Engine, PictureSize
from ultraflash.server.worker.cost_book import CostBook
from ultraflash.server.worker.live_stream import LiveStream, SizeChange
from ultraflash.server.worker.messages import AUTO
from ultraflash.server.worker.quality import QualityPolicy, StreamLoad, largest_that_fits
from ultraflash.server.worker.rungs import Rung, rungs_of

# What happens once and says nothing about the groups to come.
ONE_OFF_STAGES = ("resize", "prompt")
# Share of the cost of all detail below which less of it is worth the loss.
WORTH_IT = 0.95


class StreamSizes:
    """Measures what streams cost and lets the policy decide about those whose size may change.

    Args:
        engine: of the streams.
        possible: names of the sizes that there is memory for, which ``auto`` chooses from.
        largest: that ``auto`` may choose.
        adapt_named: whether a stream that asked for a size by name may get a smaller one under load.
        raise_after_s: time for which a larger size must have fitted before a stream gets it.
        costs: what is known so far.
        clock: seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        possible: Sequence[str],
        largest: str | None,
        adapt_named: bool,
        raise_after_s: float,
        costs: CostBook,
        clock: Callable[[], float],
    ) -> None:
        self.costs = costs
        self._preset = preset = engine.preset
        self._rungs = rungs_of(engine, sorted(preset.sizes, key=_pixels))
        self._possible = frozenset(possible)
        self._largest = None if largest is None else preset.size(largest)
        self._adapt_named = adapt_named
        self._policy = QualityPolicy(raise_after_s=raise_after_s, clock=clock)

    def choose(self, asked: str, fps: float, others: Iterable[LiveStream]) -> PictureSize:
        """The size of a stream that asks for one by name, or for ``auto``, beside others. Raises ``UnknownSize``."""
        if asked != AUTO:
            return self._preset.size(asked)
        # A stream begins with all of a size's detail.
        rungs = [rung for rung in self._rungs_of(AUTO) if rung.sr_share == 1]
        taken = sum(self._load(self._next_rung(other), other.fps) for other in others if _works(other))
        return rungs[largest_that_fits([self._load(rung, fps) for rung in rungs], taken)].size

    def measured(self, stream: LiveStream, seconds: float) -> None:
        """A group of a stream has taken so long; the first one is shorter than the others and does not count."""
        if stream.groups > 1 and stream.group_frames:
            once = sum(stream.state.stage_seconds.get(stage, 0.0) for stage in ONE_OFF_STAGES)
            rung = Rung(size=stream.size, sr_share=stream.sr_share)
            self.costs.measured(rung.name, max(0.0, seconds - once) / stream.group_frames)

    def adapt(self, streams: Iterable[LiveStream]) -> None:
        """Lets a stream change its size with its next group, if it is time for that."""
        working = {stream.stream_id: stream for stream in streams if _works(stream)}
        step = self._policy.step([self._demand(stream) for stream in working.values()])
        if step is not None:
            stream = working[step.key]
            rung = self._ladder(stream)[step.place]
            stream.new_size = SizeChange(
                event_id="", size=rung.size, asked=stream.asked, reason=step.reason, sr_share=rung.sr_share
            )

    def _demand(self, stream: LiveStream) -> StreamLoad:
        # A change on its way is left to happen, above all one that the owner has asked for.
        adapts = stream.new_size is None and (stream.asked == AUTO or self._adapt_named)
        rung = self._next_rung(stream)
        rungs = self._ladder(stream) if adapts else [rung]
        return StreamLoad(
            key=stream.stream_id,
            loads=tuple(self._load(one, stream.fps) for one in rungs),
            place=rungs.index(rung),
            adapts=adapts,
            misses=stream.playout.misses,
        )

    def _ladder(self, stream: LiveStream) -> list[Rung]:
        """Steps that a stream may have, cheap to dear, with the one that it has: perhaps of a worker that had more
        memory, or from a time when it was cheaper."""
        rungs, current = self._rungs_of(stream.asked), self._next_rung(stream)
        if current not in rungs:
            rungs = sorted([*rungs, current], key=lambda one: (_pixels(one.size), one.sr_share))
        return rungs

    def _rungs_of(self, asked: str) -> list[Rung]:
        """Steps that a stream may have, cheap to dear; that of the smallest size in any case."""
        largest = self._largest if asked == AUTO else self._preset.size(asked)
        limit = None if largest is None else _pixels(largest)
        smallest = self._rungs[0].size.name
        return [
            rung
            for rung in self._rungs
            if self._is_worth_it(rung)
            and (
                rung.size.name == smallest
                or (
                    (limit is None or _pixels(rung.size) <= limit)
                    and (asked != AUTO or rung.size.name in self._possible)
                )
            )
        ]

    def _is_worth_it(self, rung: Rung) -> bool:
        """Whether less attention was measured to save something: where it is a small part of the work it does not."""
        if rung.sr_share == 1:
            return True
        return self.costs.seconds(rung.name) < WORTH_IT * self.costs.seconds(rung.size.name)

    def _load(self, rung: Rung, fps: float) -> float:
        return self.costs.seconds(rung.name) * fps

    def _next_rung(self, stream: LiveStream) -> Rung:
        change = stream.new_size
        if change is None:
            return Rung(size=stream.size, sr_share=stream.sr_share)
        return Rung(size=change.size, sr_share=change.sr_share)


def _pixels(size: PictureSize) -> int:
    return size.width * size.height


def _works(stream: LiveStream) -> bool:
    return not stream.playhead.paused
