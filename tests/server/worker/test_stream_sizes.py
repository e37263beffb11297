"""Which steps of quality a stream goes through, with what they cost given and a clock that only the test moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pattern_engine import PatternEngine

from ultraflash.server.worker.cost_book import CostBook
from ultraflash.server.worker.live_stream import LiveStream, apply_changes, open_stream
from ultraflash.server.worker.messages import AUTO, OpenStream, SizeShown
from ultraflash.server.worker.playhead import PacingRule
from ultraflash.server.worker.stream_sizes import StreamSizes
from ultraflash.server.worker.stream_snapshot import SnapshotRule

RAISE_AFTER_S = 10.0
REAL_TIME = 1 / 16
PIXELS = {"0.5K": 224 * 128, "1K": 416 * 240, "1K/0.5": 416 * 240}


class Bench:
    """One stream that asks for ``auto`` and what its engine takes, in shares of real time."""

    def __init__(self, engine: PatternEngine, **loads: float) -> None:
        self.now = 0.0
        self._engine = engine
        self.costs = CostBook(PIXELS)
        self.sizes = StreamSizes(
            engine,
            possible=("0.5K", "1K"),
            largest=None,
            adapt_named=False,
            raise_after_s=RAISE_AFTER_S,
            costs=self.costs,
            clock=lambda: self.now,
        )
        self.take(**loads)
        pacing = PacingRule(ahead_us=1.5e6, ack_pause_s=1e9, ack_end_s=1e9, paused_end_s=1e9)
        command = OpenStream(
            stream_id="one",
            prompt="a hill",
            asked_size=AUTO,
            size=AUTO,
            seed=1,
            fps=None,
            bitrate=None,
            max_frames=None,
            paused=False,
            first_index=0,
            generation=0,
            playhead_us=0.0,
            restore=False,
            changes=[],
        )
        size = self.sizes.choose(AUTO, 16, [])
        keeping = SnapshotRule(folder=None, share=0.0, max_bytes=0)
        self.stream: LiveStream = open_stream(engine, command, pacing, keeping, size, self.now)

    def take(self, **loads: float) -> None:
        names = {"small": "0.5K", "large": "1K", "sparse": "1K/0.5"}
        for name, load in loads.items():
            self.costs.begin(names[name], load * REAL_TIME)

    def run(self, seconds: float) -> list[tuple[str, float, str]]:
        """What is announced in that time: size, share of the attention, reason."""
        said = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            self.sizes.adapt([self.stream])
            for report in apply_changes(self._engine, self.stream):
                assert isinstance(report, SizeShown)
                said.append((report.size, report.sr_share, report.reason))
        return said


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatternEngine:
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps(dict.fromkeys(PIXELS, 0.0)))
    monkeypatch.setenv("PATTERN_COSTS", str(costs))
    return PatternEngine()


def test_less_attention_comes_before_a_smaller_size_down_and_up(engine: PatternEngine) -> None:
    bench = Bench(engine, small=0.1, large=0.5, sparse=0.3)
    assert bench.stream.size.name == "1K"
    assert bench.run(30) == []
    bench.take(small=0.2, large=1.2, sparse=0.7)
    assert bench.run(5) == [("1K", 0.5, "overload")]
    bench.take(small=0.4, large=2.4, sparse=1.4)
    assert bench.run(5) == [("0.5K", 1.0, "overload")]
    bench.take(small=0.2, large=1.2, sparse=0.7)
    assert bench.run(3 * RAISE_AFTER_S) == [("1K", 0.5, "recovered")]
    bench.take(small=0.1, large=0.5, sparse=0.3)
    assert bench.run(3 * RAISE_AFTER_S) == [("1K", 1.0, "recovered")]


def test_a_step_that_would_not_fit_either_is_gone_past(engine: PatternEngine) -> None:
    bench = Bench(engine, small=0.1, large=0.5, sparse=0.3)
    bench.take(small=0.4, large=2.4, sparse=1.4)
    assert bench.run(1) == [("0.5K", 1.0, "overload")]


def test_a_machine_that_is_fast_and_slow_in_turn_makes_no_detail_swing(engine: PatternEngine) -> None:
    bench = Bench(engine, small=0.1, large=0.5, sparse=0.3)
    said = []
    for _ in range(40):
        bench.take(small=0.2, large=1.2, sparse=0.7)
        said += bench.run(15)
        bench.take(small=0.1, large=0.5, sparse=0.3)
        said += bench.run(15)
    assert said[0] == ("1K", 0.5, "overload")
    assert len(said) <= 12


def test_a_stream_begins_with_all_detail_of_its_size(engine: PatternEngine) -> None:
    bench = Bench(engine, small=0.2, large=1.2, sparse=0.7)
    assert (bench.stream.size.name, bench.stream.sr_share) == ("0.5K", 1.0)
    assert bench.run(2 * RAISE_AFTER_S) == [("1K", 0.5, "recovered")]


def test_less_attention_that_saves_nothing_is_no_step(engine: PatternEngine) -> None:
    bench = Bench(engine, small=0.1, large=0.5, sparse=0.49)
    bench.take(small=0.2, large=1.2, sparse=1.18)
    assert bench.run(3) == [("0.5K", 1.0, "overload")]
    bench.take(small=0.2, large=1.0, sparse=0.97)
    assert bench.run(10 * RAISE_AFTER_S) == []
