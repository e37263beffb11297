from pathlib import Path

import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.models.patch_autoencoder import PatchAutoencoder
from ultraflash.models.weights import ENCODER_FILE
from ultraflash.training.pairs import PairsConfig, PairsReader, make_pairs, pairs_folder
from ultraflash.training.patches import LINEAR, export

CONFIG = PairsConfig(
    pairs_per_shard=2,
    latent_frames=2,
    windows=((2, 2, 3), (4, 2, 2)),
    base_rows=4,
    base_cols=7,
    shards=1,
    with_text=True,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    export(PatchAutoencoder(LINEAR).encoder, root / ENCODER_FILE)
    assert make_pairs(CONFIG, root, patch=LINEAR, weights=root, seed=0, workers=0)
    return root


def test_high_latents_are_a_factor_larger_and_come_with_text(pairs: Path) -> None:
    for factor, rows, cols in CONFIG.windows:
        batch = PairsReader(pairs_folder(pairs, factor, "train"), seed=0).batch(0, 2)
        assert batch.low.shape == (2, 2, 32, rows, cols)
        assert batch.high.shape == (2, 2, 32, rows * factor, cols * factor)
        assert batch.text_BLD is not None
        assert batch.text_BLD.shape == (2, 64, 384)


def test_test_pairs_show_other_scenes_than_training_pairs(pairs: Path) -> None:
    train, test = (
        PairsReader(pairs_folder(pairs, 2, split), seed=0).take([0, 1]) for split in ("train", "test")
    )
    assert not torch.equal(train.low, test.low)


def test_making_again_draws_nothing_new(pairs: Path) -> None:
    shard = next(pairs_folder(pairs, 2, "train").glob("*.safetensors"))
    before = shard.stat().st_mtime_ns
    assert make_pairs(CONFIG, pairs, patch=LINEAR, weights=pairs, seed=0, workers=0)
    assert shard.stat().st_mtime_ns == before


def test_remade_pairs_want_their_captions() -> None:
    with pytest.raises(BadConfig, match="with_text"):
        PairsConfig(remade=0.5)


def test_a_window_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(BadConfig, match="5x2 does not fit a picture of 4x7"):
        PairsConfig(windows=((2, 5, 2),), base_rows=4, base_cols=7)
