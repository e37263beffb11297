"""Draw the README's sheet: sixteen prompts, four moments each, made by the shipped cascade.

python benchmarks/prompt_sheet.py -o .github/images/mini-sheet.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ultraflash.models.cascade import Cascade

PROMPTS = (
    "snowy mountains at night, snow falling, camera pans left",
    "a red hot air balloon over snowy peaks at dusk",
    "a blue lighthouse by the sea at dawn",
    "a blue sailboat on the ocean in daylight",
    "a city skyline at night",
    "a yellow airship over a city by day",
    "desert dunes in the daytime, zoom in",
    "a blue airplane over a desert at dusk",
    "a forest in thick fog at dawn",
    "a forest by day, camera drifting left",
    "a red train passing green hills by day",
    "a red windmill by green hills in daylight, clear sky",
    "a lake with reflections at sunset",
    "a mountain lake in the rain, in daylight",
    "rocky mountains at night, aurora in the sky",
    "a yellow hot air balloon on the right over green hills by day",
)
COLUMNS = 2
MOMENTS = 4


def moments(
    cascade: Cascade, prompt: str, *, seconds: float, size: str, seed: int, width: int
) -> list[Image.Image]:
    """Frames at equal distances through the first ``seconds`` of a stream, scaled to ``width``."""
    state = cascade.open(prompt, size=size, seed=seed)
    groups: list[Tensor] = []
    while state.frames_emitted < seconds * cascade.preset.fps:
        groups.append(cascade.next_group(state))
    frames = torch.cat(groups)
    picked = torch.linspace(0, frames.shape[0] - 1, MOMENTS).round().long().tolist()
    pictures = [Image.fromarray(frames[i].numpy()) for i in picked]
    return [p.resize((width, round(p.height * width / p.width)), Image.Resampling.LANCZOS) for p in pictures]


def draw_sheet(cascade: Cascade, *, seconds: float, size: str, seed: int, width: int) -> Image.Image:
    """The sheet: ``COLUMNS`` columns of prompts, each a row of moments over its prompt."""
    font = ImageFont.load_default(size=14)
    rows = [
        moments(cascade, prompt, seconds=seconds, size=size, seed=seed, width=width) for prompt in PROMPTS
    ]
    height, band, gap = rows[0][0].height, 22, 10
    per_column = -(-len(rows) // COLUMNS)
    cell = (MOMENTS * width + gap, height + band)
    sheet = Image.new("RGB", (COLUMNS * cell[0] - gap, per_column * cell[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (prompt, pictures) in enumerate(zip(PROMPTS, rows, strict=True)):
        left, top = number // per_column * cell[0], number % per_column * cell[1]
        for i, picture in enumerate(pictures):
            sheet.paste(picture, (left + i * width, top))
        pen.text((left + 4, top + height + 2), prompt, fill="black", font=font)
    return sheet


def main() -> None:
    """Read the options and write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--size", default="0.5K")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--width", type=int, default=224, help="pixels of one picture")
    args = parser.parse_args()
    sheet = draw_sheet(
        Cascade.load(args.preset), seconds=args.seconds, size=args.size, seed=args.seed, width=args.width
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output, quality=88)


if __name__ == "__main__":
    main()
