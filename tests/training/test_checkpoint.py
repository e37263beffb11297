from pathlib import Path

import pytest
import torch

from ultraflash.training import checkpoint as module
from ultraflash.training.checkpoint import (
    Checkpoint,
    Progress,
    load_latest,
    save_checkpoint,
    write_atomically,
)


def _checkpoint(step: int) -> Checkpoint:
    weights = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(weights.parameters(), lr=0.1)
    weights(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return Checkpoint(
        progress=Progress(step=step, elapsed=step / 2),
        model=weights.state_dict(),
        ema={name: tensor * 2 for name, tensor in weights.state_dict().items()},
        optimizer=optimizer.state_dict(),
        config={"steps": 9},
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = _checkpoint(7)
    save_checkpoint(tmp_path, saved)
    loaded = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.progress == saved.progress and loaded.config == saved.config
    for name in saved.model:
        assert torch.equal(loaded.model[name], saved.model[name])
        assert torch.equal(loaded.ema[name], saved.ema[name])
    for number, state in saved.optimizer["state"].items():
        assert torch.equal(loaded.optimizer["state"][number]["exp_avg"], state["exp_avg"])


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


def test_only_the_newest_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, _checkpoint(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    loaded = load_latest(tmp_path)
    assert loaded is not None and loaded.progress.step == 100


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, _checkpoint(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for victim in ("save_file", "_flush"):
        with monkeypatch.context() as patch:
            patch.setattr(module, victim, die)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(tmp_path, _checkpoint(2))
        loaded = load_latest(tmp_path)
        assert loaded is not None and loaded.progress.step == 1
    save_checkpoint(tmp_path, _checkpoint(2))
    loaded = load_latest(tmp_path)
    assert loaded is not None and loaded.progress.step == 2


def test_an_atomic_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, b"old")

    def die(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "_flush", die)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
