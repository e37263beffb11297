"""Contact sheets: scenes in rows, moments in columns, captions below."""

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render
from ultraflash.training.vista.scene import Scene, sample_scene

_COLUMNS = 4
_TEXT = 34


def save_gallery(
    scenes: list[Scene],
    path: Path,
    *,
    height: int = 256,
    width: int = 448,
    seconds: float = 3.0,
    per_row: int = 2,
) -> None:
    """Write a PNG with four frames of each scene, `seconds` apart in all, `per_row` scenes side by side."""
    columns = max(1, per_row)
    rows = -(-len(scenes) // columns)
    cell_width, cell_height = width * _COLUMNS + 8, height + _TEXT
    sheet = Image.new("RGB", (cell_width * columns, cell_height * rows), (18, 18, 22))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=22)
    for number, scene in enumerate(scenes):
        left, top = number % columns * cell_width, number // columns * cell_height
        frames = render(scene, frames=_COLUMNS, height=height, width=width, fps=(_COLUMNS - 1) / seconds)
        for index in range(_COLUMNS):
            sheet.paste(Image.fromarray(frames[index].numpy()), (left + index * width, top))
        text = textwrap.shorten(caption(scene, 0), width=cell_width // 12)
        draw.text((left + 8, top + height + 4), text, fill=(230, 230, 230), font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main() -> None:
    """Command line: draw the first scenes of a split."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of Vista.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--split", default="train")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=448)
    args = parser.parse_args()
    scenes = [sample_scene(seed, args.split) for seed in range(args.scenes)]
    save_gallery(scenes, args.path, height=args.height, width=args.width)


if __name__ == "__main__":
    main()
