import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ultraflash.models.errors import BadConfig
from ultraflash.training.shards import Shard, make_shards, shard_numbers, shard_path


@dataclass(frozen=True)
class Counting:
    """Shard n holds n; making one can take time, or fail."""

    seconds: float = 0.0
    broken: int = -1
    version: int = 1

    def describe(self) -> dict[str, Any]:
        return {"version": self.version}

    def open(self) -> Callable[[int], Shard]:
        return self._make

    def _make(self, number: int) -> Shard:
        time.sleep(self.seconds)
        if number == self.broken:
            raise ValueError("this one cannot be made")
        return Shard(tensors={"number": torch.tensor([number])}, metadata={"text": str(number)})


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    assert make_shards(Counting(), tmp_path, name="t", numbers=[1, 3], workers=0)
    before = shard_path(tmp_path, 3).stat().st_mtime_ns
    assert make_shards(Counting(), tmp_path, name="t", numbers=range(5), workers=0)
    assert shard_numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert shard_path(tmp_path, 3).stat().st_mtime_ns == before
    assert load_file(shard_path(tmp_path, 4))["number"].tolist() == [4]


def test_a_folder_made_with_other_settings_is_refused(tmp_path: Path) -> None:
    make_shards(Counting(), tmp_path, name="t", numbers=[0], workers=0)
    with pytest.raises(BadConfig, match="version"):
        make_shards(Counting(version=2), tmp_path, name="t", numbers=[1], workers=0)


def test_a_time_limit_ends_it_between_shards(tmp_path: Path) -> None:
    assert make_shards(
        Counting(seconds=0.05), tmp_path, name="t", numbers=range(99), workers=0, minutes=0.2 / 60
    )
    assert 1 <= len(shard_numbers(tmp_path)) < 20


def test_a_signal_ends_it_and_says_so(tmp_path: Path) -> None:
    class Signalling(Counting):
        def _make(self, number: int) -> Shard:
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._make(number)

    assert not make_shards(Signalling(), tmp_path, name="t", numbers=range(9), workers=0)
    assert shard_numbers(tmp_path) == [0, 1, 2]


def test_a_signal_to_the_whole_process_group_is_no_failure_of_the_workers(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); from test_shards import Counting\n"
        "from ultraflash.training.shards import make_shards\n"
        "if __name__ == '__main__':\n"
        "    maker, folder = Counting(seconds=0.1), pathlib.Path(sys.argv[1])\n"
        "    print(make_shards(maker, folder, name='t', numbers=range(999), workers=2))\n"
    )
    script, shards = tmp_path / "script.py", tmp_path / "shards"
    script.write_text(code)
    command = [sys.executable, "-I", str(script), str(shards), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while not (shards.is_dir() and shard_numbers(shards)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert (said, process.returncode) == ("False\n", 0)


def test_worker_processes_share_the_shards_and_one_that_fails_is_reported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); from test_shards import Counting\n"
        "from ultraflash.training.shards import make_shards\n"
        "if __name__ == '__main__':\n"
        "    make_shards(Counting(broken=3), pathlib.Path(sys.argv[1]), name='t', numbers=range(4), workers=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(tmp_path / "shards"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert "this one cannot be made" in done.stderr
    assert "failed" in done.stderr.splitlines()[-1]
    assert {0, 1} <= set(shard_numbers(tmp_path / "shards")) <= {0, 1, 2}
