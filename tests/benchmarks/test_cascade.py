from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WIDTH, HEIGHT, LATENT_FRAMES = 48, 32, 3


class FakeCascade:
    """Makes noise of the right shape; ``flaw`` says what it does wrong."""

    def __init__(self, flaw: str = "") -> None:
        size = SimpleNamespace(name="0.5K", width=WIDTH, height=HEIGHT)
        self.preset = SimpleNamespace(group_frames=LATENT_FRAMES, fps=16, size=lambda _: size)
        self.flaw = flaw
        self.opened = 0

    def open(self, prompt: str, *, size: str, seed: int) -> SimpleNamespace:
        self.opened += 1
        seed += self.opened if self.flaw == "forgets its seed" else 0
        return SimpleNamespace(noise=torch.Generator().manual_seed(seed), frames_emitted=0, stage_seconds={})

    def next_group(self, stream: SimpleNamespace) -> Tensor:
        count = 4 * LATENT_FRAMES - (3 if stream.frames_emitted == 0 and self.flaw != "emits too many" else 0)
        rows = HEIGHT // 2 if self.flaw == "makes small pictures" else HEIGHT
        frames = torch.randint(256, (count, rows, WIDTH, 3), generator=stream.noise, dtype=torch.uint8)
        if self.flaw == "stands still":
            frames = frames[:1].expand_as(frames).contiguous()
        stream.frames_emitted += count
        stream.stage_seconds = {"base": 0.001, "decode": 0.002}
        return frames.float() if self.flaw == "returns floats" else frames


class FakeEncoder:
    def __init__(self) -> None:
        self.indices: list[int] = []

    def encode(self, frame: Any, index: int) -> list[SimpleNamespace]:
        self.indices.append(index)
        return [SimpleNamespace(data=b"\0" * 100)]


@pytest.fixture
def cascade_benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it is started as a program, so it is not part of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "cascade", raising=False)
    return importlib.import_module("cascade")


@pytest.fixture
def run(cascade_benchmark: ModuleType) -> Any:
    return cascade_benchmark.Run(
        preset="mini", size="0.5K", groups=2, warmup=1, seed=7, device="cpu", threads=None
    )


def test_right_frames_pass_the_check(cascade_benchmark: ModuleType, run: Any) -> None:
    cascade_benchmark.check_frames(FakeCascade(), run)


@pytest.mark.parametrize(
    "flaw", ["forgets its seed", "emits too many", "makes small pictures", "stands still", "returns floats"]
)
def test_a_cascade_that_makes_wrong_frames_is_not_timed(
    cascade_benchmark: ModuleType, run: Any, flaw: str
) -> None:
    with pytest.raises(cascade_benchmark.WrongFrames):
        cascade_benchmark.check_frames(FakeCascade(flaw), run)


def test_timed_frames_leave_out_the_warm_up(cascade_benchmark: ModuleType, run: Any) -> None:
    encoder = FakeEncoder()
    timed = cascade_benchmark.time_groups(FakeCascade(), run, encoder)
    assert timed["frames"] == 2 * 4 * LATENT_FRAMES
    assert encoder.indices == list(range(9 + 12 + 12))
    assert set(timed["stages_ms"]) == {"base", "decode", "encode"}
    assert timed["stages_ms"]["base"] == pytest.approx(2 * 1.0 / 24, abs=0.01)
    assert timed["mbit_per_s_of_video"] == pytest.approx(100 * 8 * 16 / 1e6, abs=0.01)


def test_the_table_has_a_row_for_each_size_and_a_column_for_each_stage(
    cascade_benchmark: ModuleType, run: Any
) -> None:
    timed = cascade_benchmark.time_groups(FakeCascade(), run, FakeEncoder())
    common = {
        "width": 48,
        "height": 32,
        "first_frame_warm_s": 0.1,
        "first_frame_cold_s": 0.2,
        "peak_rss_mib": 1,
    }
    lines = cascade_benchmark.table(
        [{"size": name, **common, **timed} for name in ("0.5K", "1K")]
    ).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| base ms | decode ms | encode ms |" in lines[0]


def test_results_say_where_they_come_from(cascade_benchmark: ModuleType) -> None:
    origin = cascade_benchmark.provenance()
    assert origin["commit"]
    assert origin["machine"]["cpu"]
    assert origin["machine"]["cores"] >= 1
    assert origin["versions"]["torch"] == torch.__version__
