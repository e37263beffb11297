"""What a replica is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ultraflash.server.replicas.fleet import device_environment, replica_settings
from ultraflash.server.settings import Settings


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


def test_a_replica_and_its_worker_know_their_number() -> None:
    settings = Settings()
    told = Settings.model_validate_json(replica_settings(settings, 2).model_dump_json())
    assert (told.replicas.number, told.configure(None).replica) == (2, 2)
    assert settings.configure(None).replica is None
