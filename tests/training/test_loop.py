import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ultraflash.models.errors import BadConfig
from ultraflash.training.loop import (
    Progress,
    StageConfig,
    WeightAverage,
    _Run,
    fraction_done,
    rate_factor,
    train,
)
from ultraflash.training.run_log import read_log
from ultraflash.training.seeding import counter_generator

CONFIG = StageConfig(steps=40, learning_rate=1e-2, warmup_steps=4, log_steps=1, checkpoint_steps=5)


class Line:
    """Fit a line through noisy points; dropout makes the loss itself random."""

    name = "line"

    def __init__(self, *, seconds: float = 0.0, stop_at: int | None = None) -> None:
        self.seconds, self.stop_at = seconds, stop_at

    def build(self) -> nn.Module:
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        return self.model

    def batch(self, step: int) -> torch.Tensor:
        time.sleep(self.seconds)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.rand(16, 3, generator=counter_generator(0, step))

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        error = self.model(batch) - batch.sum(1, keepdim=True)
        return error.square().mean(), {"bias": error.mean().detach()}

    def sample(self, step: int) -> torch.Tensor | None:
        return torch.zeros(4, 4, 3, dtype=torch.uint8)

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training
        return {"weight": float(self.model[0].weight.detach().sum())}

    def export(self, folder: Path) -> list[Path]:
        return []


def _losses(run_dir: Path, name: str = "line") -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_log(run_dir / name / "log.jsonl")}


def test_a_run_that_was_killed_has_the_losses_of_one_that_was_not(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]);"
        "from test_loop import CONFIG, Line; from ultraflash.training.loop import train;"
        "train(Line(seconds=0.02), CONFIG, pathlib.Path(sys.argv[1]))"
    )
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(killed), str(Path(__file__).parent)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(_losses(killed)) < 13 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    cut_at = max(_losses(killed))
    assert 13 <= cut_at < 40

    assert train(Line(), CONFIG, killed)
    assert train(Line(), CONFIG, tmp_path / "whole")
    assert _losses(killed) == _losses(tmp_path / "whole")
    evaluations = [
        json.loads((tmp_path / run / "line/evaluation.json").read_text()) for run in ("killed", "whole")
    ]
    assert evaluations[0]["weight"] == evaluations[1]["weight"]


def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on_from_there(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert not train(Line(stop_at=16), CONFIG, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert max(_losses(tmp_path)) == 17
    assert (tmp_path / "line/checkpoints/step-00000017").is_dir()
    assert train(Line(), CONFIG, tmp_path)
    assert sorted(_losses(tmp_path)) == list(range(1, 41))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    assert train(Line(), CONFIG, tmp_path)
    first = (tmp_path / "line/evaluation.json").read_text()
    assert train(Line(), CONFIG, tmp_path)
    assert (
        json.loads(first)["weight"] == json.loads((tmp_path / "line/evaluation.json").read_text())["weight"]
    )


def test_settings_of_the_optimizer_are_those_of_the_run_that_resumes(tmp_path: Path) -> None:
    assert not train(Line(stop_at=16), CONFIG, tmp_path)
    run = _Run(Line(), replace(CONFIG, betas=(0.5, 0.6), weight_decay=0.125), tmp_path)
    run.log.__exit__(None, None, None)
    assert run.step == 17
    assert {(group["betas"], group["weight_decay"]) for group in run.optimizer.param_groups} == {
        ((0.5, 0.6), 0.125)
    }
    assert run.optimizer.state_dict()["parts"][0]["state"][0]["step"] == 17


def test_a_checkpoint_of_another_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Wider(Line):
        def build(self) -> nn.Module:
            self.model = nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.2), nn.Linear(9, 1))
            return self.model

    assert not train(Line(stop_at=16), CONFIG, tmp_path)
    with pytest.raises(BadConfig, match=r"0\.weight is \(8, 3\), not \(9, 3\).*--run-dir"):
        train(Wider(), CONFIG, tmp_path)


def test_a_time_budget_ends_the_run_before_its_steps(tmp_path: Path) -> None:
    config = replace(CONFIG, minutes=0.01, steps=10_000)
    assert train(Line(seconds=0.02), config, tmp_path)
    assert max(_losses(tmp_path)) < 60


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = [rate_factor(CONFIG, Progress(step=step, elapsed=0.0)) for step in range(41)]
    assert rates[0] == pytest.approx(1 / 4, rel=1e-3)
    assert max(rates) == rates[3]
    assert rates[20] == pytest.approx((1 + CONFIG.final_rate) / 2)
    assert rates[40] == pytest.approx(CONFIG.final_rate)


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    config = replace(CONFIG, schedule="constant")
    assert {rate_factor(config, Progress(step=step, elapsed=0.0)) for step in range(4, 41)} == {1.0}


def test_networks_of_a_stage_share_its_minutes_and_have_its_steps_each() -> None:
    assert replace(CONFIG, minutes=90.0).shared_by(2) == replace(CONFIG, minutes=45.0)
    assert CONFIG.shared_by(2) == CONFIG


def test_progress_is_steps_or_minutes_whichever_is_further() -> None:
    config = replace(CONFIG, minutes=1.0)
    assert fraction_done(config, Progress(step=10, elapsed=6.0)) == 0.25
    assert fraction_done(config, Progress(step=10, elapsed=45.0)) == 0.75
    assert fraction_done(config, Progress(step=50, elapsed=45.0)) == 1.0


def test_the_average_follows_its_formula_and_stands_in_only_inside_the_block() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = WeightAverage(module, decay=0.5)
    nn.init.ones_(module.weight)
    average.update(module, step=0)
    expected = 1 - 1 / 10
    for step in range(1, 100):
        average.update(module, step=step)
        expected += (1 - expected) * (1 - min(0.5, (1 + step) / (10 + step)))
    assert float(average.tensors["weight"][0, 0]) == pytest.approx(expected)
    with average.in_place_of(module):
        assert torch.equal(module.weight, average.tensors["weight"]) and not module.training
    assert torch.equal(module.weight, torch.ones(1, 2)) and module.training


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
            return super().loss(batch)[0] * math.nan, {}

    with pytest.raises(FloatingPointError, match="step 0"):
        train(Broken(), CONFIG, tmp_path)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"schedule": "linear"}, {"minutes": -1.0}, {"ema_decay": 1.0}, {"batch_size": 0}]
)
def test_settings_without_meaning_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        replace(CONFIG, **change)  # type: ignore[arg-type]
