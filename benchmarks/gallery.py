"""A page that shows the world as it is drawn beside what a preset makes of the same prompts.

    python benchmarks/gallery.py -o build/gallery
    python benchmarks/gallery.py -o build/gallery --preset my.toml --prompts 24 --held-out 12

The folder gets index.html and a WebP picture for every prompt and maker, which says who made it within the picture as
well, so that it cannot be mistaken where somebody takes it out of the page. The scenes are those of `ultraflash eval`:
no network was trained on them. Nothing is picked: the first prompts are shown, with the seeds of their numbers.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from provenance import commit
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.training.evaluation.streams import TestPrompt, make_prompts
from ultraflash.training.vista.painter import render

MOMENTS = 3
BAND = 22
GAP = 3
DRAWN, MADE = "#7a4a00", "#0b4f8a"
"""What marks a maker, on the band in its pictures and around them on the page."""

STYLE = f"""
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }}
section {{ margin: 0 0 2rem; border-top: 1px solid #8886; padding-top: .6rem }}
h1 {{ margin-bottom: .2rem }} h3 {{ font-size: 1rem; margin: 0 0 .5rem }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem }}
figure {{ margin: 0; border: 3px solid; border-radius: 4px; overflow: hidden }}
figure.drawn {{ border-color: {DRAWN} }} figure.made {{ border-color: {MADE} }}
figcaption {{ color: white; padding: .15rem .6rem; font-size: .9rem }}
.drawn figcaption {{ background: {DRAWN} }} .made figcaption {{ background: {MADE} }}
img {{ display: block; width: 100%; height: auto }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prompt and the pictures of it, by file name."""

    prompt: TestPrompt
    drawn: str
    made: str


def make_clip(cascade: Cascade, prompt: str, *, frames: int, size: str, seed: int) -> Tensor:
    """The first ``frames`` (T, H, W, 3) of a stream, in full size."""
    state = cascade.open(prompt, size=size, seed=seed)
    groups: list[Tensor] = []
    while state.frames_emitted < frames:
        groups.append(cascade.next_group(state))
    return torch.cat(groups)[:frames]


def strip(frames_THWC: Tensor, words: str, *, color: str, width: int) -> Image.Image:
    """Frames at equal distances side by side, over a band that says who made them."""
    picked = torch.linspace(0, frames_THWC.shape[0] - 1, MOMENTS).round().long().tolist()
    pictures = [Image.fromarray(frames_THWC[i].numpy()) for i in picked]
    height = round(pictures[0].height * width / pictures[0].width)
    sheet = Image.new("RGB", (MOMENTS * (width + GAP) - GAP, height + BAND), color)
    for column, picture in enumerate(pictures):
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (column * (width + GAP), 0))
    ImageDraw.Draw(sheet).text((6, height + 3), words, fill="white", font=ImageFont.load_default(size=13))
    return sheet


def make_pairs(
    cascade: Cascade, prompts: Sequence[TestPrompt], folder: Path, *, args: argparse.Namespace, kind: str
) -> Iterator[Pair]:
    """Draw and make every prompt, and write the pictures to ``folder``."""
    chosen = cascade.preset.size(args.size or cascade.preset.default_size)
    frames = round(args.seconds * cascade.preset.fps)
    for number, prompt in enumerate(prompts):
        clips = {
            "drawn": render(prompt.scene, frames=frames, height=chosen.height, width=chosen.width),
            "made": make_clip(cascade, prompt.text, frames=frames, size=chosen.name, seed=args.seed + number),
        }
        names = {maker: f"{kind}-{number:02}-{maker}.webp" for maker in clips}
        words = {
            "drawn": "DRAWN by the program that made the training data",
            "made": f"MADE by {cascade.preset.name}",
        }
        colors = {"drawn": DRAWN, "made": MADE}
        for maker, clip in clips.items():
            sheet = strip(clip, words[maker], color=colors[maker], width=args.width)
            sheet.save(folder / names[maker], quality=args.quality, method=6)
        yield Pair(prompt=prompt, **names)


def page(name: str, origin: str, chapters: dict[str, Sequence[Pair]], *, seconds: float) -> str:
    """The HTML of chapters by their headings."""
    made_by = html.escape(name)
    drawn, made = (
        f'<strong style="color:{color};background:white">{word}</strong>'
        for word, color in (("Brown", DRAWN), ("Blue", MADE))
    )
    told = (
        f"Every prompt is shown twice, {seconds:g} seconds from left to right. {made} frames hold what "
        f"<code>{made_by}</code> makes of the words alone. {drawn} frames hold pictures that a program draws of the "
        "scene: the world that the networks learned, not what they make. No network was trained on these scenes, "
        "and none of them was picked."
    )
    parts = [
        f"<h1>{made_by} and the world it learned</h1><p>{told}</p><p><small>{html.escape(origin)}</small></p>"
    ]
    for heading, pairs in chapters.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        parts += [_section(pair, name) for pair in pairs]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{made_by}: gallery</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _section(pair: Pair, name: str) -> str:
    text = html.escape(pair.prompt.text)
    told = {"made": f"Made by {html.escape(name)}", "drawn": "Drawn by the program (training data's world)"}
    figures = "".join(
        f'<figure class="{maker}"><figcaption>{words}</figcaption>'
        f'<img loading="lazy" src="{getattr(pair, maker)}" alt="{words}: {text}"></figure>'
        for maker, words in told.items()
    )
    return f'<section><h3>{text}</h3><div class="pair">{figures}</div></section>'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size of the streams (default: the preset's)")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of seen pairs")
    parser.add_argument(
        "--held-out", type=int, default=4, help="prompts of pairs that the generator never saw"
    )
    parser.add_argument("--seconds", type=float, default=2.7, help="seconds of every stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=320, help="pixels of one frame")
    parser.add_argument("--quality", type=int, default=80, help="of WebP, up to 100")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the pictures and the page."""
    args = parse_args(argv)
    cascade = Cascade.load(args.preset)
    args.output.mkdir(parents=True, exist_ok=True)
    counts = {"seen": ("Pairs of attributes that training saw", "test", args.prompts)}
    counts["held-out"] = ("Pairs that the generator never saw together", "held_out", args.held_out)
    chapters = {}
    for kind, (heading, split, count) in counts.items():
        prompts = make_prompts(count, split=split, seed=args.seed)
        if prompts:
            chapters[heading] = list(make_pairs(cascade, prompts, args.output, args=args, kind=kind))
    origin = f"ultraflash, commit {commit()[:8]}"
    text = page(cascade.preset.name, origin, chapters, seconds=args.seconds)
    (args.output / "index.html").write_text(text, encoding="utf-8")
    print(f"wrote {args.output / 'index.html'}")


if __name__ == "__main__":
    main()
