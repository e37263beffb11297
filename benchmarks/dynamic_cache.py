"""What each switch of dynamic cache management saves on a preset, and what it costs in the picture.

    python benchmarks/dynamic_cache.py                                    # the table
    python benchmarks/dynamic_cache.py --json benchmarks/results/dynamic_cache.json

The same prompt and seed run without a switch, with each of the three alone, and with all. Quality is the PSNR to the
frames without switches, over the groups after the first (which no switch changes much), and two statistics that need
no reference: sharpness (mean absolute Laplacian of the luma, in grey levels) and motion (mean absolute difference of
neighbouring frames). As streams of few steps draw fresh noise for every step, a low PSNR says that the pictures went
another way, not that they are worse: read it beside the statistics. Before anything is timed the frames are checked.
The last columns count what was left out: a switch that left out nothing shows there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cascade import Run, WrongFrames, check_frames
from provenance import provenance
from result_table import markdown_table
from torch import Tensor

from ultraflash.server.size_timing import PROMPT

# Of red, green and blue in the luma of BT.709.
LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Frames of one run and how long they took.

    Attributes:
        frames_THWC: those of the timed groups, uint8.
        seconds: of the timed groups.
        use: counts and occupancy at the end.
    """

    frames_THWC: Tensor
    seconds: float
    use: Any


def variants(rule: Any) -> dict[str, Any]:
    """The switches of ``rule``: none, each alone, all."""
    off = replace(rule, later_steps=None, skip_commit_above=None, shrink_sr_window=False)
    return {
        "none": off,
        "steps": replace(off, later_steps=rule.later_steps),
        "commits": replace(off, skip_commit_above=rule.skip_commit_above),
        "window": replace(off, shrink_sr_window=True),
        "all": replace(rule, shrink_sr_window=True),
    }


def make(cascade: Any, rule: Any, run: Run) -> Made:
    """Run a stream under ``rule``; its first ``run.warmup`` groups are neither timed nor kept."""
    stream = cascade.open(PROMPT, size=run.size, seed=run.seed)
    stream.dynamic_cache = rule
    for _ in range(run.warmup):
        cascade.next_group(stream)
    started = perf_counter()
    frames = [cascade.next_group(stream) for _ in range(run.groups)]
    return Made(frames_THWC=torch.cat(frames), seconds=perf_counter() - started, use=stream.cache_use)


def psnr(frames: Tensor, reference: Tensor) -> float | None:
    """Peak signal-to-noise ratio in dB over all frames; None where they are equal."""
    squares = [(a.float() - b.float()).square().mean().item() for a, b in zip(frames, reference, strict=True)]
    mean = sum(squares) / len(squares)
    return None if mean == 0 else round(float(10 * torch.log10(torch.tensor(255.0**2 / mean))), 2)


def statistics(frames_THWC: Tensor) -> dict[str, float]:
    """Sharpness and motion, in grey levels."""
    sharpness, motion, before = 0.0, 0.0, None
    for frame_HWC in frames_THWC:
        luma_HW = frame_HWC.float() @ torch.tensor(LUMA)
        centre = luma_HW[1:-1, 1:-1]
        around = luma_HW[:-2, 1:-1] + luma_HW[2:, 1:-1] + luma_HW[1:-1, :-2] + luma_HW[1:-1, 2:]
        sharpness += (around - 4 * centre).abs().mean().item()
        motion += 0.0 if before is None else (luma_HW - before).abs().mean().item()
        before = luma_HW
    count = len(frames_THWC)
    return {"sharpness": round(sharpness / count, 3), "motion": round(motion / max(1, count - 1), 3)}


def ablate(cascade: Any, rule: Any, run: Run) -> list[dict[str, Any]]:
    """A row of numbers for every variant. Raises WrongFrames when the preset does not make what it should."""
    check_frames(cascade, run)
    rows: list[dict[str, Any]] = []
    reference: Made | None = None
    for name, switches in variants(rule).items():
        made = make(cascade, switches, run)
        reference = reference or made
        frames = len(made.frames_THWC)
        rows.append(
            {
                "variant": name,
                "rule": asdict(switches),
                "frame_ms": round(1e3 * made.seconds / frames, 2),
                "speed": round(reference.seconds / made.seconds, 3),
                "psnr_db": psnr(made.frames_THWC, reference.frames_THWC),
                **statistics(made.frames_THWC),
                "steps_saved": made.use.steps_saved,
                "refreshes_skipped": made.use.refreshes_skipped,
                "occupancy": dict(made.use.occupancy),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = [
        "switches",
        "frame ms",
        "speed",
        "PSNR dB",
        "sharpness",
        "motion",
        "steps saved",
        "commits skipped",
        "SR window",
    ]
    lines = []
    for row in rows:
        same = row["psnr_db"] is None
        lines.append(
            [
                row["variant"],
                f"{row['frame_ms']:.1f}",
                f"{row['speed']:.2f}",
                "equal" if same else f"{row['psnr_db']:.1f}",
                f"{row['sharpness']:.2f}",
                f"{row['motion']:.2f}",
                str(row["steps_saved"]),
                str(row["refreshes_skipped"]),
                f"{row['occupancy'].get('sr', 0.0):.2f}",
            ]
        )
    return markdown_table(head, lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size to make (default: the preset's)")
    parser.add_argument("--groups", type=int, default=8, help="timed groups of each variant")
    parser.add_argument("--warmup", type=int, default=1, help="groups before those")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument(
        "--later-steps",
        type=int,
        help="denoising steps of blocks after the first (default: half of the preset's)",
    )
    parser.add_argument(
        "--skip-above", type=float, default=0.5, help="agreement above which commits are skipped"
    )
    parser.add_argument("--warmup-groups", type=int, default=2, help="groups with the full SR window")
    parser.add_argument("--min-sr-blocks", type=int, default=0, help="what the SR window shrinks to")
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run every variant and print the table; 1 when the preset makes wrong frames."""
    args = parse_args(argv)
    from ultraflash.models.cascade import Cascade
    from ultraflash.models.dynamic_cache import DynamicCacheConfig

    if args.threads:
        torch.set_num_threads(args.threads)
    cascade = Cascade.load(args.preset, device=args.device)
    rule = DynamicCacheConfig(
        later_steps=args.later_steps or max(1, len(cascade.preset.base.schedule.nominal_steps) // 2),
        skip_commit_above=args.skip_above,
        shrink_sr_window=True,
        warmup_groups=args.warmup_groups,
        min_sr_blocks=args.min_sr_blocks,
    )
    rule.check(cascade.preset.base.schedule)
    run = Run(
        preset=args.preset,
        size=args.size or cascade.preset.default_size,
        groups=args.groups,
        warmup=args.warmup,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
    )
    try:
        rows = ablate(cascade, rule, run)
    except WrongFrames as error:
        print(f"not timed: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": "dynamic_cache",
            "preset": args.preset,
            "size": run.size,
            "prompt": PROMPT,
            "seed": args.seed,
            "groups": args.groups,
            **provenance(),
            "variants": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
