import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ultraflash.training.latents import ClipsTogether, LatentsBatch, LatentsDataset, object_shares
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


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two shards of three random clips, whose two captions are their place and wording."""
    draw = torch.Generator().manual_seed(0)
    (tmp_path / "text").mkdir()
    for number in range(2):
        save_file(
            {
                "latents": torch.randn(3, 4, 2, 2, 2, generator=draw).half(),
                "objects": torch.randint(256, (3, 2, 2, 2), generator=draw).byte(),
            },
            shard_path(tmp_path, number),
            {"scenes": json.dumps([{"object": None}] * 3)},
        )
        captions = [[f"{3 * number + clip} {wording}" for wording in range(2)] for clip in range(3)]
        save_file(
            {"text": torch.randn(3, 2, 5, 6, generator=draw).half()},
            shard_path(tmp_path / "text", number),
            {"captions": json.dumps(captions)},
        )
    return tmp_path


def assert_same(made: LatentsBatch, wanted: LatentsBatch) -> None:
    assert made.captions == wanted.captions
    assert torch.equal(made.latent_BCTHW.cpu(), wanted.latent_BCTHW)
    assert torch.equal(made.text_BLD.cpu(), wanted.text_BLD)
    # A GPU multiplies by the inverse where a CPU divides.
    torch.testing.assert_close(made.object_BTHW.cpu(), wanted.object_BTHW, rtol=2e-7, atol=0)


def test_clips_that_lie_together_make_the_batches_of_their_shards(cache: Path) -> None:
    clips = LatentsDataset(cache)
    shards = [load_file(shard_path(cache, number)) for number in range(2)]
    texts = [load_file(shard_path(cache / "text", number))["text"] for number in range(2)]
    together = ClipsTogether.of(
        [shard["latents"] for shard in shards], [shard["objects"] for shard in shards], texts, "cpu"
    )
    wanted = clips.batch(1, 4)
    picked, which = zip(
        *([int(part) for part in caption.split()] for caption in wanted.captions), strict=True
    )
    assert_same(together.batch(list(picked), list(which), wanted.captions), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_a_cache_on_a_gpu_draws_what_one_on_the_cpu_does(cache: Path) -> None:
    made = LatentsDataset(cache, seed=3, held_out_shards=1, device="cuda").batch(2, 3)
    assert made.latent_BCTHW.device.type == made.text_BLD.device.type == "cuda"
    assert_same(made, LatentsDataset(cache, seed=3, held_out_shards=1).batch(2, 3))
