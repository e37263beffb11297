from pathlib import Path

import pytest

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.tiles import Tiles
from ultraflash.kernels.tuning import KERNELS, device_code, source_digest, tune, tuned, tuning_name

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


def test_a_change_of_the_device_code_gives_another_digest(tmp_path: Path) -> None:
    digests = []
    for number, (shared, own) in enumerate([("a", "b"), ("a", "c"), ("d", "b"), ("a", "b")]):
        folder = tmp_path / str(number)
        (folder / "attention").mkdir(parents=True)
        (folder / "online_softmax.py").write_text(shared)
        (folder / "attention" / "triton_any.py").write_text(own)
        (folder / "attention" / "forward.py").write_text(str(number))
        digests.append(source_digest(folder))
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_the_name_of_a_result_tells_gpu_and_source() -> None:
    name = tuning_name("attend_dense", "some GPU", "bfloat16", 64)
    assert name.startswith("attend_dense bfloat16 64, some GPU, Triton ")
    assert name.endswith(f", source {source_digest(KERNELS)}")


def test_every_file_with_functions_for_a_gpu_counts() -> None:
    decorated = {
        path for path in KERNELS.rglob("*.py") if "\n@triton.jit" in path.read_text(encoding="utf-8")
    }
    assert decorated and decorated == set(device_code(KERNELS))
