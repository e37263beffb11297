from pathlib import Path

import pytest

from ultraflash.training.run_log import RunLog, read_log


def test_records_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    with RunLog(tmp_path, stage="toy", resumed_at=0) as log:
        for step in range(1, 6):
            log.scalars(step, {"loss": 1.0 / step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with RunLog(tmp_path, stage="toy", resumed_at=3) as log:
        log.scalars(4, {"loss": 9.0})
    records = read_log(tmp_path / "log.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] == 9.0


def test_plain_progress_lines_are_rare_and_tell_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, stage="toy", resumed_at=0) as log:
        log.progress(0.25, elapsed=3600.0, text="step 1")
        log.progress(0.26, elapsed=3601.0, text="step 2")
    error = capsys.readouterr().err
    assert "25.0% step 1, 3:00:00 left" in error
    assert "step 2" not in error
