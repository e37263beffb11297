from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ultraflash.models.errors import BadConfig
from ultraflash.training.clip_pool import ClipPool, PoolConfig, make_pools
from ultraflash.training.real_clips import find_clips, read_frames

POOL = PoolConfig(clips_per_shard=3, frames=5, window=32, heights=(32, 64), shards=2)


def _write_video(path: Path, *, frames: int = 8, height: int = 96, width: int = 128) -> None:
    """A video whose brightness counts its frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(16))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = np.full((height, width, 3), 20 * number + 20, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for name in ("real/01_dog.mp4", "real/cars.mp4", *(f"aigc/{letter}.mp4" for letter in "abcdef")):
        _write_video(folder / name)
    return folder


def test_the_dog_and_every_fifth_generated_clip_are_held_out(videos: Path) -> None:
    train, held_out = find_clips(videos)
    assert [file.stem for file in held_out] == ["e", "01_dog"]
    assert [file.stem for file in train] == ["a", "b", "c", "d", "f", "cars"]


def test_a_folder_without_videos_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="mp4"):
        find_clips(tmp_path)


def test_frames_are_read_from_any_start(videos: Path) -> None:
    frames_TCHW = read_frames(videos / "real/cars.mp4", count=3, start=2)
    assert frames_TCHW.shape == (3, 3, 96, 128) and frames_TCHW.dtype == torch.uint8
    brightness = frames_TCHW.float().mean(dim=(1, 2, 3)).tolist()
    assert brightness == pytest.approx([60, 80, 100], abs=4)


def _pools(folder: Path, videos: Path | None) -> list[Path]:
    pools = make_pools(POOL, folder, seed=1, split="train", clips=videos, workers=0)
    assert pools is not None
    return pools


def test_a_batch_mixes_rendered_and_real_clips_and_depends_on_its_step_alone(
    tmp_path: Path, videos: Path
) -> None:
    pools = _pools(tmp_path / "pool", videos)
    first, second = ClipPool(pools, seed=3), ClipPool(pools, seed=3)
    second.batch(0, 2, shares=[0.5, 0.5])
    frames_BTHWC = first.batch(5, 4, shares=[0.5, 0.5])
    assert frames_BTHWC.shape == (4, 5, 32, 32, 3) and frames_BTHWC.dtype == torch.uint8
    assert torch.equal(frames_BTHWC, second.batch(5, 4, shares=[0.5, 0.5]))
    assert not torch.equal(frames_BTHWC, first.batch(6, 4, shares=[0.5, 0.5]))
    flat_share = sum(float(clip[0].float().std()) < 4 for clip in first.batch(0, 40, shares=[0.5, 0.5])) / 40
    assert 0.2 < flat_share < 0.8


def test_pools_need_no_real_clips(tmp_path: Path) -> None:
    pools = _pools(tmp_path / "pool", None)
    assert len(pools) == 1
    assert ClipPool(pools, seed=0).batch(0, 2, shares=[1.0]).shape == (2, 5, 32, 32, 3)


@pytest.mark.parametrize("shape", [{"frames": 4}, {"height": 16}, {"width": 16}])
def test_a_video_too_small_for_a_window_is_named(tmp_path: Path, shape: dict[str, int]) -> None:
    _write_video(tmp_path / "videos/small.mp4", **shape)
    with pytest.raises(BadConfig, match=r"small\.mp4 has"):
        _pools(tmp_path / "pool", tmp_path / "videos")


def test_reading_behind_the_end_of_a_video_is_refused(videos: Path) -> None:
    with pytest.raises(BadConfig, match="no frame number 8"):
        read_frames(videos / "real/cars.mp4", count=1, start=8)


@pytest.mark.parametrize("change", [{"window": 48}, {"window": 20}, {"frames": 4}])
def test_windows_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    settings: Callable[..., PoolConfig] = PoolConfig
    with pytest.raises(BadConfig):
        settings(**{"heights": (32,), "window": 32, "frames": 5, **change})
