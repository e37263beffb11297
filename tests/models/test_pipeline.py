from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_official import Official

from ultraflash.models.errors import BadConfig, BadTransition, UnknownPreset, UnknownSize
from ultraflash.models.pipeline import UltraFlashPipeline


@pytest.fixture(scope="module")
def pipeline(official: Official) -> UltraFlashPipeline:
    """The tiny official cascade, from a folder of its official files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULTRAFLASH_MODELS", str(official.home))
        from ultraflash.models.cascade import Cascade

        return UltraFlashPipeline(Cascade.load(official.preset, dtype=torch.float32))


def test_frames_come_in_the_shapes_that_users_of_diffusers_know(pipeline: UltraFlashPipeline) -> None:
    made = {
        kind: pipeline("a calm sea", num_frames=5, height=64, width=128, seed=1, output_type=kind)
        for kind in ("np", "pt", "pil")
    }
    array, tensor, pictures = (made[kind].frames for kind in ("np", "pt", "pil"))
    assert array.shape == (1, 5, 64, 128, 3) and array.dtype == np.float32
    assert array.min() >= 0 and array.max() <= 1
    assert np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    assert len(pictures) == 1 and len(pictures[0]) == 5
    assert isinstance(pictures[0][0], Image.Image) and pictures[0][0].size == (128, 64)
    assert np.array_equal(np.asarray(pictures[0][4], dtype=np.float32) / np.float32(255), array[0, 4])
    assert made["np"].fps == 16 and made["np"].seeds == (1,)


def test_a_generator_draws_the_seeds_and_moves_on(pipeline: UltraFlashPipeline) -> None:
    def make(generator: torch.Generator) -> tuple[int, ...]:
        return pipeline(["a calm sea", "a desert"], num_frames=1, size="0.5K", generator=generator).seeds

    generator = torch.Generator().manual_seed(5)
    first, second = make(generator), make(generator)
    assert len(set(first + second)) == 4
    assert make(torch.Generator().manual_seed(5)) == first


def test_a_stream_gives_the_groups_of_the_whole_video_and_can_be_steered(
    pipeline: UltraFlashPipeline,
) -> None:
    whole = pipeline("a calm sea", num_frames=30, size="0.5K", seed=3).frames[0]
    groups = list(pipeline.stream("a calm sea", num_frames=30, size="0.5K", seed=3))
    assert [len(group) for group in groups] == [21, 9]
    assert np.array_equal(np.concatenate(groups), whole)
    endless = pipeline.stream("a calm sea", size="0.5K", seed=3)
    assert np.array_equal(next(endless), groups[0])
    endless.set_prompt("a desert at noon")
    endless.set_size("1K")
    assert next(endless).shape == (24, 64, 128, 3)
    assert endless.seed == 3


def test_a_stream_chooses_for_every_prompt_what_becomes_of_the_past(pipeline: UltraFlashPipeline) -> None:
    def second_group(**options: Any) -> np.ndarray:
        stream = pipeline.stream("a calm sea", size="0.5K", seed=3)
        next(stream)
        stream.set_prompt("a desert at noon", **options)
        return next(stream)

    ways = [
        second_group(transition="recompute"),
        second_group(transition="keep"),
        second_group(transition="fade", groups=2),
        second_group(transition="blend", groups=3),
    ]
    assert np.array_equal(ways[0], second_group()), "what a preset that says nothing does"
    assert not any(np.array_equal(a, b) for a, b in combinations(ways, 2))
    with pytest.raises(BadTransition):
        second_group(transition="wipe")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 64}, "height and width together"),
        ({"height": 64, "width": 128, "size": "1K"}, "height and width together"),
        ({"num_frames": 0}, "num_frames starts at 1"),
        ({"output_type": "latent"}, "np, pt, pil"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
    ],
)
def test_options_that_cannot_be_are_refused(
    pipeline: UltraFlashPipeline, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        pipeline("a calm sea", **options)
    with pytest.raises(UnknownSize, match=r"1K \(128x64\)"):
        pipeline("a calm sea", height=64, width=64)
    with pytest.raises(BadConfig, match="none is given"):
        pipeline([])


def test_what_was_saved_loads_back_equal(pipeline: UltraFlashPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    again = UltraFlashPipeline.from_pretrained(tmp_path / "saved", torch_dtype=torch.float32)
    assert again.preset.sources == ()
    assert replace(again.preset, weights="", sources=pipeline.preset.sources) == pipeline.preset
    one, other = (p("a calm sea", num_frames=25, size="2K", seed=7).frames for p in (pipeline, again))
    assert np.array_equal(one, other)
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    assert UltraFlashPipeline.from_pretrained(moved / "preset.toml").preset.weights == str(moved)


def test_the_shipped_preset_saves_and_loads_back_equal(tmp_path: Path) -> None:
    pipeline = UltraFlashPipeline.from_pretrained("mini", torch_dtype=torch.float32)
    pipeline.save_pretrained(tmp_path)
    again = UltraFlashPipeline.from_pretrained(str(tmp_path), torch_dtype=torch.float32)
    one, other = (p("a calm sea", num_frames=4, seed=7).frames for p in (pipeline, again))
    assert one.shape == (1, 4, 512, 896, 3)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ["maxi", "./nowhere/preset", Path("owner/name")])
def test_a_name_that_is_nothing_is_refused_with_what_could_be(name: str | Path) -> None:
    with pytest.raises(UnknownPreset, match="mini"):
        UltraFlashPipeline.from_pretrained(name)


def test_a_folder_without_a_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownPreset, match=r"no preset\.toml"):
        UltraFlashPipeline.from_pretrained(tmp_path)
