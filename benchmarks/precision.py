"""How fast a preset streams, and how far its frames move, with each number type of its networks.

    python benchmarks/precision.py                                    # the table
    python benchmarks/precision.py --json benchmarks/results/precision.json

The same prompt and seed run in float32, then in bfloat16 with linear layers of bfloat16, int8 (on a CPU) and fp8 (on a
GPU from sm_89 on). What the device cannot do is named and left out. All run in one process, one after the other, so
that ratios of their speeds mean something on a machine that is not quiet. PSNR is that of all timed frames to those in
float32, and `latents` the relative error of the newest group's base latents. Before anything is timed the frames are
checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cascade import Run, WrongFrames, check_frames
from dynamic_cache import psnr
from provenance import provenance
from result_table import markdown_table
from torch import Tensor

from ultraflash.server.size_timing import PROMPT

VARIANTS = {
    "float32": (torch.float32, "native"),
    "bfloat16": (torch.bfloat16, "native"),
    "int8": (torch.bfloat16, "int8"),
    "fp8": (torch.bfloat16, "fp8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one variant made, and how long it took.

    Attributes:
        frames_THWC: of the timed groups, uint8.
        latents_BCFHW: base latents of the last of them.
        seconds: of the timed groups.
        stages: seconds of them by stage.
    """

    frames_THWC: Tensor
    latents_BCFHW: Tensor
    seconds: float
    stages: dict[str, float]


def load(preset: Any, variant: str, device: str) -> Any:
    """A cascade of a variant. Raises UnsupportedPrecision or MissingExtra where the device cannot do it."""
    from ultraflash.models.cascade import Cascade
    from ultraflash.models.precision import PrecisionConfig

    dtype, linears = VARIANTS[variant]
    chosen = replace(preset, precision=PrecisionConfig(linears=linears))  # type: ignore[arg-type]
    return Cascade.load(chosen, device=device, dtype=dtype)


def make(cascade: Any, run: Run) -> Made:
    """Run a stream; its first ``run.warmup`` groups are neither timed nor kept."""
    check_frames(cascade, run)
    stream = cascade.open(PROMPT, size=run.size, seed=run.seed)
    for _ in range(run.warmup):
        cascade.next_group(stream)
    frames, stages = [], dict.fromkeys(("base", "upsample", "sr", "decode"), 0.0)
    started = perf_counter()
    for _ in range(run.groups):
        frames.append(cascade.next_group(stream))
        for stage, seconds in stream.stage_seconds.items():
            stages[stage] += seconds
    seconds = perf_counter() - started
    return Made(
        frames_THWC=torch.cat(frames),
        latents_BCFHW=stream.last_latents_BCFHW.cpu(),
        seconds=seconds,
        stages=stages,
    )


def compare(preset: Any, run: Run) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row of numbers for every variant that runs here, and why the others do not.

    Raises WrongFrames when one does not make what it should.
    """
    from ultraflash.models.errors import BadConfig, MissingExtra, UnsupportedPrecision

    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    reference: Made | None = None
    for variant in VARIANTS:
        try:
            cascade = load(preset, variant, run.device)
        except (BadConfig, UnsupportedPrecision, MissingExtra) as error:
            left_out[variant] = error.message
            continue
        made = make(cascade, run)
        reference = reference or made
        error = (made.latents_BCFHW - reference.latents_BCFHW).norm() / reference.latents_BCFHW.norm()
        rows.append(
            {
                "variant": variant,
                "fps": round(len(made.frames_THWC) / made.seconds, 3),
                "speed": round(reference.seconds / made.seconds, 3),
                "stages": {stage: round(seconds, 4) for stage, seconds in made.stages.items()},
                "latents": round(error.item(), 5),
                "psnr_db": psnr(made.frames_THWC, reference.frames_THWC),
            }
        )
    return rows, left_out


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = ["linears", "fps", "speed", "base s", "sr s", "latents", "PSNR dB"]
    lines = [
        [
            row["variant"],
            f"{row['fps']:.2f}",
            f"{row['speed']:.2f}",
            f"{row['stages']['base']:.2f}",
            f"{row['stages']['sr']:.2f}",
            f"{row['latents']:.4f}",
            "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}",
        ]
        for row in rows
    ]
    return markdown_table(head, lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size to make (default: the preset's)")
    parser.add_argument("--groups", type=int, default=4, help="timed groups of each variant")
    parser.add_argument("--warmup", type=int, default=1, help="groups before those")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run every variant and print the table; 1 when one makes wrong frames."""
    args = parse_args(argv)
    from ultraflash.models.preset import load_preset

    if args.threads:
        torch.set_num_threads(args.threads)
    preset = load_preset(args.preset)
    run = Run(
        preset=args.preset,
        size=args.size or preset.default_size,
        groups=args.groups,
        warmup=args.warmup,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
    )
    try:
        rows, left_out = compare(preset, run)
    except WrongFrames as error:
        print(f"not timed: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    for variant, reason in left_out.items():
        print(f"{variant} is left out: {reason}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": "precision",
            "preset": args.preset,
            "size": run.size,
            "prompt": PROMPT,
            "seed": args.seed,
            "groups": args.groups,
            **provenance(),
            "variants": rows,
            "left_out": left_out,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
