from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ultraflash.training.vista.painter import render, render_parts
from ultraflash.training.vista.scene import BIOMES, WEATHERS, Scene, sample_scene

SIZE = {"height": 96, "width": 168}


def plain(**changes: object) -> Scene:
    values: dict[str, object] = {
        "seed": 11,
        "biome": "mountains",
        "time": "day",
        "weather": "clear",
        "camera": "still",
    }
    return Scene(**(values | changes))  # type: ignore[arg-type]


def shift_between(first_HW3: Tensor, second_HW3: Tensor) -> int:
    """Horizontal shift in pixels by phase correlation of the lower halves: positive when the content moved right."""
    half = first_HW3.shape[0] // 2
    window = torch.hann_window(first_HW3.shape[1])
    lines = [
        (frame[half:].float().mean(dim=-1) - frame[half:].float().mean()) * window
        for frame in (first_HW3, second_HW3)
    ]
    spectra = [torch.fft.fft2(line) for line in lines]
    cross = spectra[1] * spectra[0].conj()
    surface = torch.fft.ifft2(cross / cross.abs().clamp(min=1e-6)).real
    best = int(surface[:2].sum(dim=0).argmax())
    return best - surface.shape[1] if best > surface.shape[1] // 2 else best


@pytest.mark.parametrize("seed", [0, 1, 5, 12])
def test_same_arguments_give_the_same_pixels_in_threads_too(seed: int) -> None:
    scene = sample_scene(seed)
    first = render(scene, frames=3, **SIZE)
    assert first.dtype == torch.uint8 and first.shape == (3, 96, 168, 3)
    with ThreadPoolExecutor(3) as pool:
        for other in pool.map(lambda _: render(scene, frames=3, **SIZE), range(3)):
            assert torch.equal(first, other)


@pytest.mark.parametrize("seed", range(24))
def test_crop_is_the_window_of_the_full_picture(seed: int) -> None:
    scene = sample_scene(seed)
    whole = render(scene, frames=2, fps=2.0, **SIZE)
    part = render(scene, frames=2, fps=2.0, crop=(50, 37, 40, 64), **SIZE)
    difference = (whole[:, 50:90, 37:101].int() - part.int()).abs()
    assert difference.float().mean() < 0.05
    assert (difference > 2).float().mean() < 0.002


@pytest.mark.parametrize("biome", BIOMES)
@pytest.mark.parametrize("weather", WEATHERS)
def test_small_crops_anywhere_match_the_full_picture(biome: str, weather: str) -> None:
    scene = plain(
        biome=biome,
        weather=weather,
        time="night",
        aurora=True,
        camera="zoom in" if weather == "fog" else "still",
    )
    whole = render(scene, frames=1, start_s=1.0, **SIZE)
    for top in (0, 16, 48, 80):
        for left in (0, 152):
            part = render(scene, frames=1, start_s=1.0, crop=(top, left, 16, 16), **SIZE)
            difference = (whole[:, top : top + 16, left : left + 16].int() - part.int()).abs().float()
            assert difference.mean() < 0.1, (top, left)


@pytest.mark.parametrize("biome", BIOMES)
def test_clip_is_a_part_of_a_longer_one(biome: str) -> None:
    scene = plain(biome=biome, camera="pan right", weather="snow")
    whole = render(scene, frames=4, **SIZE)
    part = render(scene, frames=2, start_s=2 / 16.0, **SIZE)
    assert (whole[2:].int() - part.int()).abs().float().mean() < 0.05


@pytest.mark.parametrize("biome", BIOMES)
def test_night_is_darker_than_day_and_frames_move(biome: str) -> None:
    means = {}
    for time in ("day", "dusk", "night"):
        clip = render(plain(biome=biome, time=time), frames=2, fps=1.0, **SIZE).float()
        means[time] = clip.mean()
        assert (clip[1] - clip[0]).abs().mean() > 0.15
    assert means["night"] < 0.75 * means["dusk"] < means["day"]


@pytest.mark.parametrize("biome", ["mountains", "snowy mountains", "desert", "hills", "forest", "city"])
def test_pan_moves_the_picture_against_the_camera(biome: str) -> None:
    for camera, sign in (("pan left", 1), ("pan right", -1), ("still", 0)):
        clip = render(plain(biome=biome, camera=camera), frames=2, fps=4.0, **SIZE)
        shift = shift_between(clip[0], clip[1])
        assert (shift > 0) - (shift < 0) == sign, (camera, shift)


def test_zoom_enlarges() -> None:
    clip = render(plain(biome="city", camera="zoom in"), frames=2, fps=1.0, **SIZE)
    assert (clip[1].int() - clip[0].int()).abs().float().mean() > 2.0


@pytest.mark.parametrize("seed", range(12))
def test_large_picture_shrunk_is_the_small_picture_but_has_more_detail(seed: int) -> None:
    scene = sample_scene(seed)
    small = render(scene, frames=1, start_s=0.5, **SIZE)[0].permute(2, 0, 1).float()
    large = render(scene, frames=1, start_s=0.5, height=288, width=504)[0].permute(2, 0, 1).float()
    shrunk = F.avg_pool2d(large, 3)
    rmse = (shrunk - small).pow(2).mean().sqrt()
    enlarged = F.interpolate(small.unsqueeze(0), size=(288, 504), mode="bicubic")[0]
    assert rmse < 12.0
    assert (large - enlarged).pow(2).mean() > 2.0 * (shrunk - small).pow(2).mean() or rmse < 2.0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="crop"):
        render(plain(), frames=1, crop=(90, 0, 20, 20), **SIZE)
    with pytest.raises(ValueError, match="nothing to draw"):
        render(plain(), frames=0, **SIZE)


@pytest.mark.parametrize("camera", ["still", "zoom in"])
def test_parts_tell_where_the_object_is(camera: str) -> None:
    scene = plain(object="airship", object_color="red", object_place="left", camera=camera)
    frames_THW3, object_THW = render_parts(scene, frames=2, **SIZE)
    assert torch.equal(frames_THW3, render(scene, frames=2, **SIZE))
    without_THW3 = render(plain(camera=camera), frames=2, **SIZE)
    changed_THW = (frames_THW3.int() - without_THW3.int()).abs().amax(dim=3) > 20
    assert changed_THW.any()
    assert (object_THW[changed_THW] > 0.07).all()
    assert (object_THW > 0.06).float().mean() < 0.15
    assert object_THW[:, :, 84:].sum() == 0, "the right half"


def test_no_object_covers_nothing() -> None:
    assert render_parts(plain(), frames=2, **SIZE)[1].sum() == 0


def test_the_light_passes_from_hour_to_hour() -> None:
    early, middle, late = (render(plain(hour=hour), frames=1, **SIZE).float() for hour in (-1.0, 0.0, 1.0))
    assert early[..., 2].mean() < middle[..., 2].mean(), "morning has less blue than noon"
    assert late[..., 2].mean() < early[..., 2].mean(), "and evening the least"
