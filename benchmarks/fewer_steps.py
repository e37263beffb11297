"""What fewer denoising steps of the base cost and bring, for a preset that knows Vista.

    python benchmarks/fewer_steps.py
    python benchmarks/fewer_steps.py --steps 1000,750,500,250 1000,500 --prompts 64 --json results.json

Every schedule makes the same prompts with the same seeds, one after the other for each prompt, so that what else the
machine does falls on all of them alike. Adherence is read by the classifier at the end of every stream; ``paired`` is
its difference to the first schedule's with a 95% interval over prompts: a schedule holds where the whole interval lies
above what may be lost. Milliseconds are of this process's own time per frame, all threads together, without a stream's
first group.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from provenance import provenance
from result_table import markdown_table
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.preset import Preset, load_preset
from ultraflash.training.evaluation.classifier import KINDS, FrameReader
from ultraflash.training.evaluation.intervals import mean
from ultraflash.training.evaluation.measures import READ_FRAMES
from ultraflash.training.evaluation.streams import TestPrompt, frame_changes, make_prompts, shrunk

HEAD = (
    "steps",
    "claims",
    "adherence",
    "paired, points",
    "change from frame to frame",
    "ms a frame",
    "faster by",
)


def with_steps(preset: Preset, steps: tuple[int, ...]) -> Preset:
    """The preset with another schedule of its base."""
    schedule = replace(preset.base.schedule, nominal_steps=steps)
    return replace(preset, base=replace(preset.base, schedule=schedule))


def timed_stream(
    cascade: Cascade, prompt: str, *, seconds: float, size: str, seed: int
) -> tuple[Tensor, float]:
    """Shrunk frames (T, H, W, 3) of a stream, and milliseconds a frame after its first group."""
    state = cascade.open(prompt, size=size, seed=seed)
    groups = [shrunk(cascade.next_group(state))]
    spent, timed = 0.0, 0
    while state.frames_emitted < seconds * cascade.preset.fps:
        started = process_time()
        frames = cascade.next_group(state)
        spent, timed = spent + process_time() - started, timed + len(frames)
        groups.append(shrunk(frames))
    return torch.cat(groups), 1e3 * spent / max(1, timed)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every schedule; the first is what the others are held against."""
    preset = load_preset(args.preset)
    size = args.size or preset.default_size
    cascades = [Cascade.load(with_steps(preset, steps)) for steps in args.steps]
    reader = FrameReader.of(preset)
    found: list[list[dict[str, float]]] = [[] for _ in cascades]
    for number, prompt in enumerate(make_prompts(args.prompts, split="test", seed=args.seed)):
        claims = {name: value for name, value in prompt.claims.items() if name in KINDS}
        if not claims:
            continue
        for rows, cascade in zip(found, cascades, strict=True):
            rows.append(_read(reader, cascade, prompt, claims, args=args, size=size, seed=args.seed + number))
        print(f"prompt {number + 1} of {args.prompts}", file=sys.stderr)
    return [_row(steps, rows, found[0]) for steps, rows in zip(args.steps, found, strict=True)]


def _read(
    reader: FrameReader,
    cascade: Cascade,
    prompt: TestPrompt,
    claims: dict[str, str],
    *,
    args: argparse.Namespace,
    size: str,
    seed: int,
) -> dict[str, float]:
    frames, ms = timed_stream(cascade, prompt.text, seconds=args.seconds, size=size, seed=seed)
    seen = reader.read(frames[-READ_FRAMES:])
    changes = frame_changes(frames)
    right = sum(seen[name] == value for name, value in claims.items())
    return {"right": right, "claims": len(claims), "ms": ms, "change": sum(changes) / len(changes)}


def _row(
    steps: tuple[int, ...], rows: list[dict[str, float]], first: list[dict[str, float]]
) -> dict[str, Any]:
    total = sum(row["claims"] for row in rows)
    # Scaled so that their mean is the difference of the shares over all claims, whatever a prompt's count.
    scale = len(rows) / total
    paired = mean([(row["right"] - other["right"]) * scale for row, other in zip(rows, first, strict=True)])
    ms, first_ms = (sum(row["ms"] for row in each) / len(each) for each in (rows, first))
    return {
        "steps": steps,
        "claims": total,
        "adherence": sum(row["right"] for row in rows) / total,
        "paired": asdict(paired),
        "change": sum(row["change"] for row in rows) / len(rows),
        "ms": round(ms, 1),
        "faster_by": round(first_ms / max(ms, 1e-9), 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = []
    for row in rows:
        value, low, high = (100 * row["paired"][name] for name in ("value", "low", "high"))
        paired = f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if row is not rows[0] else ""
        steps = ", ".join(map(str, row["steps"]))
        shown = (f"{row['adherence']:.1%}", paired, f"{row['change']:.2f}", f"{row['ms']:.1f}")
        lines.append((steps, str(row["claims"]), *shown, f"{row['faster_by']:.2f}"))
    return markdown_table(HEAD, lines)


def steps_of(text: str) -> tuple[int, ...]:
    """``1000,500`` as a schedule."""
    return tuple(int(step) for step in text.split(","))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size of the streams (default: the preset's)")
    parser.add_argument(
        "--steps",
        type=steps_of,
        nargs="+",
        default=[(1000, 750, 500, 250), (1000, 667, 333), (1000, 750), (1000, 500), (1000, 250)],
        help="schedules, the one to hold the others against first",
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.7, help="seconds of every stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    args = parse_args(argv)
    rows = measure(args)
    print(table(rows))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"benchmark": "fewer_steps", "preset": args.preset, **provenance(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
