from ultraflash.training.vista.captions import attributes_in, caption
from ultraflash.training.vista.scene import OBJECTS, OPEN_PLACE, sample_scene


def test_captions_claim_only_what_the_scene_shows() -> None:
    for seed in range(600):
        scene = sample_scene(seed)
        text = caption(scene, seed)
        claimed = attributes_in(text)
        assert claimed["biome"] == scene.biome, text
        for name, value in claimed.items():
            assert getattr(scene, name) == value, (text, name)


def test_captions_name_the_object_with_its_color() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        text = caption(scene, 1).lower()
        if scene.object is None:
            assert not any(name in text for name in OBJECTS)
        else:
            assert f"{scene.object_color} " in text
            assert attributes_in(text)["object"] == scene.object


def test_another_seed_gives_another_wording() -> None:
    scene = sample_scene(5)
    assert len({caption(scene, seed) for seed in range(20)}) > 12
    assert caption(scene, 4) == caption(scene, 4)


def test_captions_fit_a_prompt() -> None:
    assert max(len(caption(sample_scene(seed), seed)) for seed in range(300)) < 220


def test_a_caption_without_a_place_means_one_and_the_same() -> None:
    silent = 0
    for seed in range(400):
        scene = sample_scene(seed)
        if scene.object is not None and "object_place" not in attributes_in(caption(scene, 2)):
            silent += 1
            assert scene.object_place == OPEN_PLACE
    assert silent > 50
