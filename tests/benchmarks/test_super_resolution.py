from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> object:
    """Scripts as modules; they are started as programs, so they are not part of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def module(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return module


def test_scores_tell_equal_from_noisy_from_flickering(load: object) -> None:
    quality = load("video_quality")  # type: ignore[operator]
    program = quality.vmaf_ffmpeg()
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 255, 96).expand(3, 64, 96)[..., None].expand(3, 64, 96, 3)
    true = (ramp * torch.rand((1, 64, 96, 1), generator=generator).clamp_min(0.5)).to(torch.uint8)
    noisy = (true.int() + torch.randint(-20, 21, true[:1].shape, generator=generator)).clamp(0, 255)
    noisy = noisy.expand_as(true).to(torch.uint8)
    flickering = noisy.clone()
    flickering[1] = true[1]
    same, worse, unsteady = (quality.compare(program, each, true) for each in (true, noisy, flickering))
    assert same["psnr"] > 50 > 35 > worse["psnr"]
    assert same["ssim"] > 0.99 > worse["ssim"]
    assert same["vmaf"] > worse["vmaf"]
    assert same["flicker"] == worse["flicker"] == 0 < unsteady["flicker"]


def test_a_row_for_every_clip_and_method(
    load: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = load("super_resolution")  # type: ignore[operator]
    path = tmp_path / "super_resolution.json"
    assert benchmark.main(["--rendered", "1", "--frames", "5", "--no-public", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["size"] == "0.5K"
    rows = report["rows"]
    assert [row["method"] for row in rows] == ["mini", "bicubic", "lanczos", "autoencoder alone"]
    assert all(row["psnr"] > 15 and 0 <= row["vmaf"] <= 100 for row in rows)
    shown = capsys.readouterr().out
    assert "| rendered | bicubic | 1 | 5 |" in shown
    assert benchmark.main(["--table", str(path)]) == 0
    assert capsys.readouterr().out == shown


def write_video(path: Path, grey: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), grey, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_of_clips_that_training_used_only_the_held_out_ones_take_part(load: object, tmp_path: Path) -> None:
    benchmark = load("super_resolution")  # type: ignore[operator]
    for number in range(6):
        write_video(tmp_path / "aigc" / f"{number}.mp4", 40 * number)
    clips = list(benchmark.real_clips(tmp_path, frames=5, height=32, width=48))
    assert [name for name, _, _ in clips] == ["4"]
    assert clips[0][2].shape == (5, 32, 48, 3)
    assert abs(clips[0][2].float().mean().item() - 160) < 4


def test_of_a_folder_that_training_did_not_use_all_clips_take_part(load: object, tmp_path: Path) -> None:
    benchmark = load("super_resolution")  # type: ignore[operator]
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", 40 * number)
    names = [name for name, _, _ in benchmark.real_clips(tmp_path, frames=5, height=32, width=48)]
    assert names == ["0", "1", "2"]
