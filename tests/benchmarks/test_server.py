"""The load on a server: a short real run, and what its players count."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ultraflash.server.protocol import MediaFlags, MediaHeader

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
RIG = ROOT / "tests" / "server" / "rig"


@pytest.fixture
def playout(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("playout")


def test_a_late_frame_is_a_miss_and_stops_the_clock_for_as_long(playout: ModuleType) -> None:
    player = playout.Player(lead_s=0.5)
    assert player.take(0, 0.0, 10.0) == 10.5
    assert player.take(1, 0.1, 10.1) == pytest.approx(10.6)
    assert (player.misses, player.stalled_s) == (0, 0.0)
    # Due at 10.7, here at 11.0: everything behind it is seen 0.3 s later.
    assert player.take(2, 0.2, 11.0) == 11.0
    assert (player.misses, player.stalled_s) == (1, pytest.approx(0.3))
    assert player.take(3, 0.3, 11.05) == pytest.approx(11.1)
    assert (player.misses, player.frames) == (1, 4)


def test_a_viewer_that_comes_late_counts_from_its_first_frame(playout: ModuleType) -> None:
    player = playout.Player(lead_s=0.5)
    assert player.take(160, 10.0, 3.0) == 3.5
    assert player.take(161, 10.0625, 3.0) == pytest.approx(3.5625)
    assert player.misses == 0


def test_only_what_has_been_seen_is_acknowledged(playout: ModuleType) -> None:
    player = playout.Player(lead_s=0.5)
    for seq in range(4):
        player.take(seq, seq / 10, 10.0)
    assert player.newest_shown(10.4) is None
    assert player.newest_shown(10.65) == (1, 0.1)
    assert player.newest_shown(10.65) is None
    assert player.buffered_s(10.65) == pytest.approx(0.15)
    assert player.newest_shown(12.0) == (3, pytest.approx(0.3))
    assert player.buffered_s(12.0) == 0.0


def test_numbers_are_summed_up_as_percentiles_and_a_slope(playout: ModuleType) -> None:
    assert playout.spread([]) == {"n": 0}
    assert playout.spread([float(n) for n in range(101)]) == {
        "n": 101,
        "p50": 50,
        "p95": 95,
        "p99": 99,
        "max": 100,
    }
    assert playout.slope([(0, 1), (1, 2)]) is None
    assert playout.slope([(100.0, 5.0), (101.0, 7.0), (103.0, 11.0)]) == pytest.approx(2.0)


class Messages:
    """A connection on which these messages come."""

    def __init__(self, *messages: str | bytes) -> None:
        self._messages = list(messages)

    async def recv(self) -> str | bytes:
        return self._messages.pop(0)


def frame(seq: int, pts_us: float, flags: MediaFlags = MediaFlags.KEY) -> bytes:
    return MediaHeader(flags=flags, generation=1, seq=seq, pts_us=pts_us, capture_ms=0.0).pack()


@pytest.mark.parametrize(
    "messages",
    [
        [json.dumps({"type": "error", "code": "busy", "message": "full"})],
        [frame(0, 0.0), frame(1, 62_500.0), frame(2, 130_000.0)],
        [frame(0, 0.0), frame(2, 125_000.0)],
    ],
    ids=["refusal", "time stamp", "gap"],
)
async def test_a_stream_that_is_wrong_is_not_measured(
    playout: ModuleType, messages: list[str | bytes]
) -> None:
    players = importlib.import_module("players")
    started = json.dumps({"type": "session.started", "fps": 16})
    owner = players.Owner(Messages(started, *messages), players.Seen(), lead_s=0.5)
    with pytest.raises(players.WrongStream):
        await owner.listen()


async def test_frames_that_a_connection_could_not_carry_are_counted(playout: ModuleType) -> None:
    players = importlib.import_module("players")
    started = json.dumps({"type": "session.started", "fps": 16})
    messages = [frame(0, 0.0), frame(4, 250_000.0, MediaFlags.KEY | MediaFlags.DISCONTINUITY)]
    seen = players.Seen()
    owner = players.Owner(Messages(started, *messages), seen, lead_s=0.5)
    with pytest.raises(IndexError):
        await owner.listen()
    assert (seen.summary()["frames"], seen.summary()["frames_left_out"]) == (2, 3)


def test_a_short_run_drives_owners_and_viewers_of_a_real_server(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    command = [sys.executable, str(BENCHMARKS / "server.py"), "--engine", "pattern_engine:PatternEngine.load"]
    command += ["--owners", "2", "--viewers", "3", "--minutes", "0.1", "--alone-s", "2"]
    command += ["--prompt-every-s", "1.5", "--json", str(out)]
    path = os.pathsep.join(filter(None, [str(RIG), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text())
    assert result["commit"]
    assert result["machine"]["cores"] >= 1
    assert (result["load"]["owners"], result["load"]["viewers"]) == (2, 3)
    for name in ("owners", "viewers"):
        assert result[name]["frames"] > 50
        assert result[name]["glass_ms"]["n"] == result[name]["frames"]
        assert result[name]["glass_ms"]["p50"] > 0
    assert result["owners"]["prompt_to_frame_ms"]["n"] >= 2
    assert result["owners"]["prompt_to_glass_ms"]["p50"] >= result["owners"]["prompt_to_frame_ms"]["p50"]
    assert set(result["cpu_share"]["all"]) == set(result["memory"]) == {"web", "worker"}
    assert result["memory"]["web"]["first_mib"] > 10
    assert isinstance(result["web_cpu_s_per_viewer_s"], float)
    assert "| owners |" in run.stdout and "| viewers |" in run.stdout


def test_a_server_that_cannot_load_ends_the_run_with_its_words(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(RIG), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(BENCHMARKS / "server.py"), "--engine", "pattern_engine:PatternEngine.load"]
    run = subprocess.run(
        [*command, "--preset", "broken"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode != 0
    assert "cannot be loaded" in run.stderr
