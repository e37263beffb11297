from pathlib import Path

import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.training.commands import main, with_overrides
from ultraflash.training.loop import StageConfig
from ultraflash.training.trajectory import TrajectoryConfig

CONFIG = StageConfig(steps=5)


def test_text_takes_the_type_of_its_setting() -> None:
    changed = with_overrides(
        CONFIG, {"minutes": "2.5", "steps": "7", "autocast": "true", "schedule": "constant"}
    )
    assert (changed.minutes, changed.steps, changed.autocast, changed.schedule) == (2.5, 7, True, "constant")
    assert with_overrides(changed, {"minutes": "none"}).minutes is None


@pytest.mark.parametrize(
    "override", [{"speed": "1"}, {"steps": "many"}, {"betas": "1"}, {"autocast": "maybe"}]
)
def test_a_setting_that_cannot_be_is_refused(override: dict[str, str]) -> None:
    with pytest.raises(BadConfig):
        with_overrides(CONFIG, override)


@pytest.mark.parametrize("option", [["--set", "channels=0"], ["--set", "steps"], ["--threads", "0"]])
def test_a_wrong_setting_stops_all_stages_before_the_first(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "all", "--recipe", "debug", "--run-dir", str(tmp_path / "run"), *option]) == 2
    assert capsys.readouterr().err.startswith("ultraflash train: ")
    assert not (tmp_path / "run").exists()


def test_a_recipe_for_a_gpu_is_refused_before_anything_is_rendered_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "all", "--recipe", "mini-gpu", "--run-dir", str(tmp_path / "run")]) == 2
    assert "PyTorch can use no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_blocks_of_a_student_are_compiled_on_a_gpu_alone() -> None:
    with pytest.raises(BadConfig, match="device=cuda"):
        TrajectoryConfig(steps=1, compile=True)
    assert TrajectoryConfig(steps=1, compile=True, device="cuda").compile
