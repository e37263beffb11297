"""How a preset that knows Vista takes a new prompt, by each way of changing it.

    python benchmarks/prompt_change.py
    python benchmarks/prompt_change.py --json benchmarks/results/prompt_change.json

The same streams change from one prompt to the next with the past kept, with the window's keys and values made anew
under the new prompt, with the frames faded over besides, and with the text blended over several groups. Adherence is
read by the classifier at the end of ``--after`` seconds; a jump is a change between two frames after the switch above
the 99th percentile of the changes of streams without one. The first row is of those streams themselves: some pass that
limit too, so no way of changing does better but by chance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import provenance

WAYS: tuple[tuple[Any, int], ...] = (
    ("keep", 1),
    ("recompute", 1),
    ("fade", 1),
    ("fade", 2),
    ("fade", 3),
    ("blend", 2),
    ("blend", 4),
)


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for streams without a change, then one for every way and every time after the change, as soon as it is
    there."""
    from ultraflash.models.cascade import Cascade
    from ultraflash.training.evaluation.classifier import FrameReader
    from ultraflash.training.evaluation.measures import StreamSettings, adherence, made_clips, prompt_switch
    from ultraflash.training.evaluation.streams import make_prompts

    cascade = Cascade.load(args.preset)
    preset = cascade.preset
    reader = FrameReader.of(preset)
    settings = StreamSettings(size=args.size or preset.default_size, seed=args.seed)
    prompts = make_prompts(args.streams, split="test", seed=args.seed)
    ordinary = list(made_clips(cascade, prompts, settings, seconds=args.before))
    first = True
    for transition, groups in WAYS:
        for after_s in args.after:
            found = prompt_switch(
                cascade, prompts, reader, settings,
                before_s=args.before, after_s=after_s, transition=transition, groups=groups, ordinary=ordinary,
            )  # fmt: skip
            if first:
                unchanged = {
                    "adherence": adherence(ordinary, reader)["all"],
                    "without_jump": found.ordinary_without_jump,
                }
                yield _row("none", 0, 0.0, **unchanged)
                first = False
            measured = {"adherence": found.adherence["all"], "without_jump": found.without_jump}
            yield _row(transition, groups, after_s, **measured)


def _row(transition: str, groups: int, after_s: float, **measures: Any) -> dict[str, Any]:
    shares = {name: asdict(measure) for name, measure in measures.items()}
    return {"transition": transition, "groups": groups, "after_s": after_s, **shares}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| transition | groups | after s | adherence | without a jump |", "|" + " --- |" * 5]
    for row in rows:
        shares = [
            f"{row[name]['value']:.0%} ({row[name]['low']:.0%} to {row[name]['high']:.0%})"
            for name in ("adherence", "without_jump")
        ]
        lines.append(
            f"| {row['transition']} | {row['groups']} | {row['after_s']:g} | {shares[0]} | {shares[1]} |"
        )
    return "\n".join(lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size of the streams (default: the preset's)")
    parser.add_argument("--streams", type=int, default=16, help="streams for each way, from 2 on")
    parser.add_argument("--before", type=float, default=3.0, help="seconds before the change")
    parser.add_argument("--after", type=float, nargs="+", default=[1.0, 3.0], help="seconds after the change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    args = parse_args(argv)
    report: dict[str, Any] = {"benchmark": "prompt_change", "preset": args.preset, "streams": args.streams}
    rows: list[dict[str, Any]] = []
    report |= {**provenance(), "rows": rows}
    for row in measure(args):
        rows.append(row)
        print(row, file=sys.stderr)
        if args.json:  # after every row, so that a run that is cut short leaves what it has
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
