from dataclasses import asdict, replace

import pytest

from ultraflash.training.vista.scene import (
    BIOMES,
    OBJECTS,
    TIMES,
    WEATHERS,
    held_out_pairs,
    held_out_pairs_of,
    sample_scene,
)


@pytest.mark.parametrize("split", ["train", "test"])
def test_held_out_pairs_never_appear_in_seen_splits(split: str) -> None:
    assert all(not held_out_pairs_of(sample_scene(seed, split)) for seed in range(1500))


def test_held_out_split_has_exactly_one_pair_and_covers_all_pairs() -> None:
    found = [held_out_pairs_of(sample_scene(seed, "held_out")) for seed in range(400)]
    assert {len(pairs) for pairs in found} == {1}
    assert {pairs[0] for pairs in found} == set(held_out_pairs())


def test_splits_draw_different_scenes_and_a_seed_draws_the_same() -> None:
    assert sample_scene(3) == sample_scene(3)
    assert len({sample_scene(3, split).seed for split in ("train", "test", "held_out")}) == 3


def test_training_scenes_cover_all_values() -> None:
    scenes = [asdict(sample_scene(seed)) for seed in range(600)]
    for name, values in (("biome", BIOMES), ("time", TIMES), ("weather", WEATHERS), ("object", OBJECTS)):
        assert {scene[name] for scene in scenes} >= set(values)


def test_unknown_values_are_refused() -> None:
    scene = sample_scene(0)
    with pytest.raises(ValueError, match="biome"):
        replace(scene, biome="moon")
    with pytest.raises(ValueError, match="split"):
        sample_scene(0, "validation")
