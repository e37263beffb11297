from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.training.commands import main, with_overrides
from ultraflash.training.loop import StageConfig

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
