"""What a replica is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ultraflash.server.replicas.fleet import device_environment


def test_replicas_take_turns_with_the_gpus_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_environment(0, tmp_path) == {}
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    given = [device_environment(number, tmp_path)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert given == ["0", "1", "0"]


def test_only_gpus_that_were_given_to_the_front_are_given_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    given = [device_environment(number, tmp_path)["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert given == ["3", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_environment(0, tmp_path) == {}
