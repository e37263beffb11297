from __future__ import annotations

import importlib
import sys
from dataclasses import replace
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

    def __init__(self, flaw: str = "", layout: str = "rgb") -> None:
        self.pictures = SimpleNamespace(layout=layout)
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
        rgb = self.pictures.layout == "rgb"
        picture = (rows, WIDTH, 3) if rgb else (3 * rows // 2, WIDTH)
        frames = torch.randint(256, (count, *picture), generator=stream.noise, dtype=torch.uint8)
        if self.flaw == "stands still":
            frames = frames[:1].expand_as(frames).contiguous()
        stream.frames_emitted += count
        stream.stage_seconds = {"base": 0.001, "decode": 0.002}
        return frames.float() if self.flaw == "returns floats" else frames


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


@pytest.mark.parametrize("layout", ["rgb", "yuv420p"])
def test_right_frames_pass_the_check_in_the_layout_that_they_come_in(
    cascade_benchmark: ModuleType, run: Any, layout: str
) -> None:
    cascade_benchmark.check_frames(FakeCascade(layout=layout), run)


@pytest.mark.parametrize(
    "flaw", ["forgets its seed", "emits too many", "makes small pictures", "stands still", "returns floats"]
)
def test_a_cascade_that_makes_wrong_frames_is_not_timed(
    cascade_benchmark: ModuleType, run: Any, flaw: str
) -> None:
    with pytest.raises(cascade_benchmark.WrongFrames):
        cascade_benchmark.check_frames(FakeCascade(flaw), run)


def test_the_table_has_a_row_for_each_size_and_a_column_for_each_stage(
    cascade_benchmark: ModuleType,
) -> None:
    timed = {
        "stages_ms": {"base": 1.0, "decode": 2.0, "encode": 0.5},
        "frame_ms": 3.5,
        "frame_cpu_ms": 4.0,
        "fps": 286.0,
    }
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


def test_a_size_is_timed_with_what_the_readme_shows_of_it(cascade_benchmark: ModuleType, run: Any) -> None:
    timed = cascade_benchmark.time_run(replace(run, groups=1))
    assert (timed["size"], timed["layout"], timed["frames"]) == ("0.5K", "yuv420p", 12)
    assert timed["first_frame_cold_s"] > timed["load_s"] > 0
    assert timed["first_frame_warm_s"] > 0
    assert set(timed["stages_ms"]) == {"base", "upsample", "sr", "decode", "encode"}
    assert cascade_benchmark.table([timed]).count("\n") == 2


def test_results_say_where_they_come_from(cascade_benchmark: ModuleType) -> None:
    origin = cascade_benchmark.provenance()
    assert origin["commit"]
    assert origin["machine"]["cpu"]
    assert origin["machine"]["cores"] >= 1
    assert origin["versions"]["torch"] == torch.__version__


def test_a_run_changes_what_it_says_of_the_preset_and_nothing_else(
    cascade_benchmark: ModuleType, run: Any
) -> None:
    preset = cascade_benchmark.preset_of(run)
    changed = cascade_benchmark.preset_of(replace(run, overlap=True, linears="int8"))
    assert (changed.execution.overlap, changed.execution.compile) == (True, preset.execution.compile)
    assert changed.precision.linears == "int8"
    assert replace(changed, execution=preset.execution, precision=preset.precision) == preset


def test_a_preset_with_drawn_weights_makes_frames_that_pass_the_check(
    cascade_benchmark: ModuleType, run: Any
) -> None:
    drawn_weights = importlib.import_module("drawn_weights")
    cascade = drawn_weights.drawn_cascade(cascade_benchmark.preset_of(run), device="cpu")
    cascade_benchmark.check_frames(cascade, run)
    words = cascade.networks.text.encode("three short words")
    assert words.shape == (cascade.networks.text.tokens, cascade.networks.text.width)
    assert words[:3].abs().sum() > 0 and words[3:].abs().sum() == 0
