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
from ultraflash.server.replicas.fleet import (
    FIRST_REST_S,
    LONGEST_REST_S,
    REST_AFTER,
    Fleet,
    device_environment,
    pause_after,
)
from ultraflash.server.replicas.replica_settings import replica_settings
from ultraflash.server.serving import CANNOT_SERVE
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


def dying(number: int, status: int, healed: Path) -> list[str]:
    """A replica that ends at once with this status until the file is there; the one with number 0 is healthy."""
    lives = "while :; do sleep 0.05; done"
    ends = "" if number == 0 else f"[ -e {healed} ] || exit {status};"
    return ["sh", "-c", f"trap 'exit 0' TERM; {ends} {lives}"]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as they are, but much shorter."""
    for name in ("FIRST_BACKOFF_S", "LONGEST_BACKOFF_S"):
        monkeypatch.setattr(fleet_module, name, 0.01)
    for name in ("FIRST_REST_S", "LONGEST_REST_S"):
        monkeypatch.setattr(fleet_module, name, 2.0)


@pytest.mark.parametrize(("status", "lives"), [(1, REST_AFTER), (CANNOT_SERVE, 1)])
async def test_one_that_fails_too_often_rests_and_is_tried_again_while_others_serve(
    closing: Closing,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    quickly: None,
    status: int,
    lives: int,
) -> None:
    healed = tmp_path / "healed"
    commands = iter([dying(0, status, healed), *[dying(1, status, healed)] * 20])
    monkeypatch.setattr(fleet_module, "replica_command", lambda _: next(commands))
    fleet = Fleet(Settings(), on_lost=nobody_cares, on_given_up=pytest.fail, closing=closing)
    fleet.add()
    await until(lambda: len(fleet.running()) == 1)
    fleet.add()
    await until(lambda: bool(fleet.resting))
    assert fleet.restarts == lives
    # Nobody waits for it as for one that is just being replaced.
    assert (fleet.size, fleet.missing, fleet.complete) == (2, 0, True)
    assert [replica.number for replica in fleet.running()] == [0]
    assert list(fleet.resting) == [1]
    assert fleet.next_try_s is not None
    assert 0 < fleet.next_try_s <= 2.0
    healed.touch()
    await until(lambda: len(fleet.running()) == 2)
    assert (fleet.restarts, fleet.resting, fleet.next_try_s) == (lives, {}, None)
    await fleet.stop()


async def test_one_that_cannot_serve_rests_longer_each_time_however_long_it_has_tried(
    closing: Closing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fleet_module, "STEADY_S", 0.0)
    rests: list[float] = []

    def pause(failures: int) -> float:
        rests.append(pause_after(failures))
        return 0.01 if len(rests) < 3 else FIRST_REST_S

    monkeypatch.setattr(fleet_module, "pause_after", pause)
    numbers = iter([0, 1, 1, 1])
    never = tmp_path / "never"
    monkeypatch.setattr(fleet_module, "replica_command", lambda _: dying(next(numbers), CANNOT_SERVE, never))
    fleet = Fleet(Settings(), on_lost=nobody_cares, on_given_up=pytest.fail, closing=closing)
    fleet.add()
    await until(lambda: len(fleet.running()) == 1)
    fleet.add()
    await until(lambda: len(rests) == 3)
    assert rests == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    await fleet.stop()


async def test_when_all_rest_there_is_nobody_to_wait_for(
    closing: Closing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quickly: None
) -> None:
    monkeypatch.setattr(fleet_module, "replica_command", lambda _: dying(1, 1, tmp_path / "never"))
    given_up: list[bool] = []
    fleet = Fleet(
        Settings(), on_lost=nobody_cares, on_given_up=lambda: given_up.append(True), closing=closing
    )
    fleet.add()
    fleet.add()
    await until(lambda: bool(given_up))
    await fleet.stop()
    assert fleet.size == 0


def test_rests_grow_longer_up_to_a_bound() -> None:
    rests = [pause_after(failures) for failures in range(REST_AFTER, REST_AFTER + 8)]
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert rests[-1] == LONGEST_REST_S
    assert pause_after(REST_AFTER - 1) < FIRST_REST_S


def test_a_replica_and_its_worker_know_their_number() -> None:
    settings = Settings()
    told = Settings.model_validate_json(replica_settings(settings, 2).model_dump_json())
    assert (told.replicas.number, told.configure(None).replica) == (2, 2)
    assert settings.configure(None).replica is None
