"""Compiled blocks: the same numbers, nothing compiled while streams run, and a second start that compiles nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from small_cascade import small_cascade, small_preset
from torch import Tensor

from ultraflash.models import cascade as cascade_module
from ultraflash.models.cascade import Cascade
from ultraflash.models.compilation import compiled_home
from ultraflash.models.errors import BadConfig, CompilationFailed
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.precision import PrecisionConfig
from ultraflash.models.preset import PRESETS, Preset, load_preset
from ultraflash.models.stream_state import StreamState
from ultraflash.models.text import MiniLMEncoder

RIG = Path(__file__).parent / "rig"

COUNT = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.path.insert(0, {str(RIG)!r})
from test_compilation import small
from small_cascade import small_cascade
from ultraflash.models.text import MiniLMEncoder
cascade = small_cascade(small(), MiniLMEncoder())
cascade.warm_up()
from torch._dynamo.utils import counters
cascade.next_group(cascade.open("a calm sea"))
print(json.dumps({{"graphs": counters["stats"]["unique_graphs"], "cache": counters["aot_autograd"]}}))
"""


def small(*, compiled: bool = True) -> Preset:
    """A base generator alone: two pieces of code to compile, which is what takes the time."""
    preset = small_preset()
    size = replace(preset.sizes[0], factor=1, refine=False)
    return replace(preset, sr=None, upsampler={}, sizes=(size,), execution=ExecutionConfig(compile=compiled))


def graphs() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@dataclass(frozen=True)
class Warm:
    """A cascade whose blocks are compiled, how many pieces that took, and where they are kept."""

    cascade: Cascade
    compiled: int
    caches: Path


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(caches))
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            # Set first, so that the patch takes back what the cascade sets.
            patch.setenv(name, "")
            patch.delenv(name)
        cascade = small_cascade(small(), MiniLMEncoder())
        before = graphs()
        cascade.warm_up()
        yield Warm(cascade=cascade, compiled=graphs() - before, caches=caches)


def story(cascade: Cascade) -> tuple[Tensor, Tensor]:
    """Latents and frames of the last of five groups, with a change of prompt and a blend on the way."""
    state: StreamState = cascade.open("a calm sea", seed=3)
    for group in range(5):
        if group == 2:
            cascade.set_prompt(state, "a desert at noon")
        if group == 3:
            cascade.set_prompt(state, "snowy mountains", transition="blend", groups=2)
        frames = cascade.next_group(state)
    assert state.last_latents_BCFHW is not None
    return state.last_latents_BCFHW, frames


@pytest.mark.slow
def test_two_halves_are_compiled_for_all_layers_and_nothing_more_while_streams_run(warm: Warm) -> None:
    assert warm.compiled == 2
    before = graphs()
    story(warm.cascade)
    assert graphs() == before


@pytest.mark.slow
def test_compiled_blocks_make_the_same_pictures(warm: Warm, build: Callable[..., Cascade]) -> None:
    latents, frames = story(warm.cascade)
    wanted_latents, wanted_frames = story(build(small(compiled=False)))
    assert torch.allclose(latents, wanted_latents, atol=1e-4)
    assert (frames.int() - wanted_frames.int()).abs().max() <= 1


@pytest.mark.slow
def test_shapes_that_loading_has_not_met_run_without_being_compiled(
    warm: Warm, build: Callable[..., Cascade], preset: Preset
) -> None:
    cold = build(replace(preset, execution=ExecutionConfig(compile=True)))
    before = graphs()
    frames = cold.next_group(cold.open("a calm sea", seed=1))
    assert graphs() == before
    plain = build(preset)
    wanted = plain.next_group(plain.open("a calm sea", seed=1))
    # The base has the shapes of the other cascade's, whose code it may share.
    assert (frames.int() - wanted.int()).abs().max() <= 1


@pytest.mark.slow
def test_a_group_that_is_generated_early_runs_in_the_same_code(
    warm: Warm, build: Callable[..., Cascade]
) -> None:
    both = build(replace(small(), execution=ExecutionConfig(compile=True, overlap=True)))
    before = graphs()
    assert all(torch.equal(a, b) for a, b in zip(story(both), story(warm.cascade), strict=True))
    assert graphs() == before


@pytest.mark.slow
def test_a_second_start_compiles_nothing_anew(tmp_path: Path) -> None:
    # Both in processes of their own: what other tests have set in this one is part of what code is kept under.
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        environment.pop(name, None)
    starts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True
        )
        starts.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert (tmp_path / "ultraflash" / "compiled" / "inductor").is_dir()
    assert [start["graphs"] for start in starts] == [2, 2]
    assert [start["cache"].get("autograd_cache_hit", 0) for start in starts] == [0, 2]
    assert "autograd_cache_miss" not in starts[1]["cache"]


def test_a_failing_compiler_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[..., Cascade]
) -> None:
    import torch._inductor.config

    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(broken),))
    other = small()
    dit = replace(other.base.dit, ffn_dim=80)
    cascade = build(replace(other, base=replace(other.base, dit=dit)))
    with pytest.raises(CompilationFailed, match=r"execution\.compile = false"):
        cascade.warm_up()


def test_a_size_without_room_is_passed_over_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, build: Callable[..., Cascade]
) -> None:
    cascade = build(small())
    monkeypatch.setattr(cascade_module, "free_bytes", lambda device: 1)
    before = graphs()
    cascade.warm_up()
    assert graphs() == before
    assert "0.5K is not compiled" in caplog.text


def test_the_folder_of_compiled_code_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert compiled_home() == Path("/caches/ultraflash/compiled")


def test_presets_say_how_they_are_run(tmp_path: Path) -> None:
    text = (PRESETS / "mini.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(text + "\n[execution]\ncompile = true\n")
    assert load_preset(path).execution == ExecutionConfig(compile=True)
    path.write_text(text + '\n[execution]\ncompile = "yes"\n')
    with pytest.raises(BadConfig, match=r"execution\.compile is true or false"):
        load_preset(path)


def test_what_cannot_be_compiled_is_refused_with_the_preset() -> None:
    with pytest.raises(BadConfig, match="int8 linears run in a kernel"):
        replace(
            load_preset("mini"),
            precision=PrecisionConfig(linears="int8"),
            execution=ExecutionConfig(compile=True),
        )
