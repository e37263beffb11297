from pathlib import Path

from PIL import Image

from ultraflash.training.vista.gallery import save_gallery
from ultraflash.training.vista.scene import sample_scene


def test_gallery_writes_four_frames_per_scene(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    save_gallery([sample_scene(seed) for seed in range(3)], path, height=32, width=56)
    assert Image.open(path).size == (2 * (4 * 56 + 8), 2 * (32 + 34))
