import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ultraflash.training.latents import LatentsDataset, object_shares
from ultraflash.training.shards import shard_path


def test_a_latent_is_covered_by_what_any_of_its_pictures_shows() -> None:
    object_THW = torch.zeros(5, 32, 32)
    object_THW[0, :16, :8] = 1.0
    object_THW[2, 16:, 16:] = 0.5
    object_THW[4, :, 16:] = 0.01
    shares_FHW = object_shares(object_THW, 16)
    assert shares_FHW.dtype == torch.uint8
    assert shares_FHW.tolist() == [[[128, 0], [0, 0]], [[0, 0], [0, 255]]]


@pytest.fixture
def one_kite_in_ten(tmp_path: Path) -> Path:
    """A cache of nine balloons and a kite, each captioned by its name."""
    names = ["hot air balloon"] * 9 + ["kite"]
    (tmp_path / "text").mkdir()
    save_file(
        {"latents": torch.zeros(10, 1, 1, 1, 1).half(), "objects": torch.zeros(10, 1, 1, 1).byte()},
        shard_path(tmp_path, 0),
        {"scenes": json.dumps([{"object": name} for name in names])},
    )
    save_file(
        {"text": torch.zeros(10, 1, 1, 1).half()},
        shard_path(tmp_path / "text", 0),
        {"captions": json.dumps([[name] for name in names])},
    )
    return tmp_path


@pytest.mark.parametrize(("balance", "kites"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_rare_objects_are_drawn_as_often_as_asked(
    one_kite_in_ten: Path, balance: float, kites: float
) -> None:
    clips = LatentsDataset(one_kite_in_ten, object_balance=balance)
    drawn = Counter(clips.batch(step, 1).captions[0] for step in range(600))
    assert drawn["kite"] / 600 == pytest.approx(kites, abs=0.06)


def test_a_batch_repeats_no_clip(one_kite_in_ten: Path) -> None:
    captions = LatentsDataset(one_kite_in_ten, object_balance=1.0).batch(0, 10).captions
    assert Counter(captions) == {"hot air balloon": 9, "kite": 1}
