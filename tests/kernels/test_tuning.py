from pathlib import Path

import pytest

from ultraflash.kernels.tiles import Tiles
from ultraflash.kernels.tuning import tune, tuned

CANDIDATES = [Tiles(m=m, j=32, warps=4, stages=2) for m in (128, 64, 32)]


def test_the_fastest_is_remembered_by_name(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tiles.json"
    assert tuned("a", path=path) is None
    best = tune(CANDIDATES, lambda tiles: abs(tiles.m - 64), name="a", path=path)
    tune(CANDIDATES, lambda tiles: tiles.m, name="b", path=path)
    assert tuned("a", path=path) == best == CANDIDATES[1]
    assert tuned("b", path=path) == CANDIDATES[2]
    assert [file.name for file in path.parent.iterdir()] == ["tiles.json"]


def test_what_is_remembered_is_timed_again_only_when_it_is_no_candidate_any_more(tmp_path: Path) -> None:
    path, timed = tmp_path / "tiles.json", []

    def seconds(tiles: Tiles) -> float:
        timed.append(tiles)
        return tiles.m

    assert tune(CANDIDATES, seconds, name="a", path=path) == CANDIDATES[2]
    assert tune(CANDIDATES, seconds, name="a", path=path) == CANDIDATES[2]
    assert timed == CANDIDATES
    assert tune(CANDIDATES[:2], seconds, name="a", path=path) == CANDIDATES[1]


def test_nothing_to_choose_from_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kernel_sweep\.py"):
        tune([], lambda tiles: 0.0, name="a", path=tmp_path / "tiles.json")
