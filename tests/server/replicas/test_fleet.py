"""What a replica is started with, and when another life of one follows."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ultraflash.server.replicas import fleet as fleet_module
from ultraflash.server.replicas.fleet import Fleet, device_environment, replica_settings
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


class Closing:
    said = False

    def __call__(self) -> bool:
        return self.said


async def nobody_cares() -> None:
    return


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def closing() -> Closing:
    return Closing()


@pytest.fixture
def fleet(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """One whose replicas do nothing, and take half a second to end."""
    program = "trap 'sleep 0.5; exit 0' TERM; while :; do sleep 0.05; done"
    monkeypatch.setattr(fleet_module, "replica_command", lambda _: ["sh", "-c", program])
    return Fleet(Settings(), on_lost=nobody_cares, on_given_up=pytest.fail, closing=closing)


async def test_one_that_is_being_stopped_is_sent_nothing_and_not_missed(fleet: Fleet) -> None:
    fleet.add()
    fleet.add()
    await until(lambda: len(fleet.running()) == 2)
    removing = asyncio.create_task(fleet.remove(1))
    await asyncio.sleep(0)
    assert [replica.number for replica in fleet.running()] == [0]
    assert (fleet.complete, fleet.missing) == (True, 0)
    await removing
    await fleet.stop()


@pytest.mark.parametrize("drains", [False, True])
async def test_one_that_dies_is_replaced_but_by_a_front_that_drains(
    fleet: Fleet, closing: Closing, caplog: pytest.LogCaptureFixture, drains: bool
) -> None:
    caplog.set_level("INFO")
    fleet.add()
    await until(lambda: len(fleet.running()) == 1)
    first = fleet.running()
    closing.said = drains
    os.kill(int(caplog.text.split(" is process ")[1].split()[0]), signal.SIGKILL)
    await until(lambda: fleet.running() != first)
    await asyncio.sleep(1.0)
    assert len(fleet.running()) == (0 if drains else 1)
    await fleet.stop()


async def test_one_that_cannot_be_started_is_tried_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fleet_module, "replica_command", lambda _: ["/nowhere/at/all"])
        fleet.add()
        await until(lambda: fleet.restarts == 1)
    await until(lambda: len(fleet.running()) == 1)
    await fleet.stop()


def test_a_replica_and_its_worker_know_their_number() -> None:
    settings = Settings()
    told = Settings.model_validate_json(replica_settings(settings, 2).model_dump_json())
    assert (told.replicas.number, told.configure(None).replica) == (2, 2)
    assert settings.configure(None).replica is None
