"""Speed of a preset, end to end: networks and encoder, size by size.

    python benchmarks/cascade.py                                    # the table
    python benchmarks/cascade.py --json benchmarks/results/cascade.json
    python benchmarks/cascade.py --preset ultraflash-1k --drawn-weights --device cuda

Each size runs in a process of its own, so that its peak memory is its own. Before anything is timed the frames are
checked: their number, their shape, that they move, and that the same seed makes them again. What fails is not timed.
Milliseconds are per frame of video. Stages run one after the other, unless the preset's ``[execution] overlap`` is on:
the base then works beside the others, and counts with what it had to be waited for. Frames come as the server has
them: as the planes that the encoder takes, or as RGB from a decoder with convolutions on a CPU.

``--compile``, ``--overlap`` and ``--linears`` change what the preset says under ``[execution]`` and ``[precision]``.

With ``--drawn-weights`` nothing is read: networks of the preset's sizes get random weights. Operations and shapes are
those of the real ones; the pictures mean nothing, and neither does what encoding them takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from provenance import provenance
from result_table import markdown_table


class WrongFrames(Exception):
    """The cascade does not make what it should, so its speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to time.

    Args:
        preset: name or path.
        size: name or ``WIDTHxHEIGHT``.
        groups: timed groups, after ``warmup`` untimed ones of the same stream.
        seed: of the stream.
        device: torch device.
        threads: of torch; None leaves its choice.
        compile, overlap, linears: instead of what the preset says; None leaves it.
        drawn_weights: whether weights are random instead of read.
    """

    preset: str
    size: str
    groups: int
    warmup: int
    seed: int
    device: str
    threads: int | None
    compile: bool | None = None
    overlap: bool | None = None
    linears: str | None = None
    drawn_weights: bool = False

    def __post_init__(self) -> None:
        if self.groups < 1 or self.warmup < 1:
            raise ValueError("at least one timed and one warm-up group are needed")


def check_frames(cascade: Any, run: Run) -> None:
    """Raise WrongFrames unless a stream's first two groups are what they should be, twice."""
    from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES
    from ultraflash.server.size_timing import PROMPT

    size = cascade.preset.size(run.size)
    streams = [cascade.open(PROMPT, size=run.size, seed=run.seed) for _ in range(2)]
    full = PATCH_FRAMES * cascade.preset.group_frames
    rgb = cascade.pictures.layout == "rgb"
    picture = (size.height, size.width, 3) if rgb else (3 * size.height // 2, size.width)
    for expected in (full - UNTRIMMED_FRAMES, full):
        first, second = (cascade.next_group(stream) for stream in streams)
        if tuple(first.shape) != (expected, *picture) or first.dtype != torch.uint8:
            raise WrongFrames(
                f"{run.size}: frames are {first.dtype} {tuple(first.shape)}, not uint8 {(expected, *picture)}"
            )
        if not torch.equal(first, second):
            raise WrongFrames(f"{run.size}: the same seed made other frames")
        if torch.equal(first[0], first[-1]) or first.float().std() < 1:
            raise WrongFrames(f"{run.size}: the picture is blank or stands still")


def time_run(run: Run) -> dict[str, Any]:
    """Load the preset, its modules included, and time one size; numbers ready for JSON."""
    started = perf_counter()
    from drawn_weights import drawn_cascade

    from ultraflash.models.cascade import Cascade
    from ultraflash.server.size_timing import time_first_frame, time_size

    if run.threads:
        torch.set_num_threads(run.threads)
    load = drawn_cascade if run.drawn_weights else Cascade.load_for_video
    cascade = load(preset_of(run), device=run.device)
    size = cascade.preset.size(run.size)
    load_seconds = perf_counter() - started
    cold_seconds = load_seconds + time_first_frame(cascade, size, seed=run.seed)
    check_frames(cascade, run)
    if torch.device(run.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)  # loading and checking hold more than a stream does
    timing = asdict(time_size(cascade, size, groups=run.groups, warmup=run.warmup, seed=run.seed))
    return {
        "load_s": round(load_seconds, 3),
        "first_frame_cold_s": round(cold_seconds, 3),
        "first_frame_warm_s": timing.pop("first_frame_s"),
        "layout": cascade.pictures.layout,
        **timing,
        **peak_memory(cascade, run),
    }


def preset_of(run: Run) -> Any:
    """The preset with what the run changes of it."""
    from ultraflash.models.precision import PrecisionConfig
    from ultraflash.models.preset import load_preset

    preset = load_preset(run.preset)
    execution = {"compile": run.compile, "overlap": run.overlap}
    changed = {name: value for name, value in execution.items() if value is not None}
    return replace(
        preset,
        execution=replace(preset.execution, **changed),
        precision=PrecisionConfig(linears=run.linears) if run.linears else preset.precision,
    )


def peak_memory(cascade: Any, run: Run) -> dict[str, int]:
    """Most memory held, in MiB; on a GPU also what the plan says of it, less a text encoder that is not there."""
    per_unit = 1 if sys.platform == "darwin" else 1024
    held = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit >> 20}
    if torch.device(run.device).type == "cuda":
        from ultraflash.models.memory_plan import memory_plan

        plan = memory_plan(cascade.preset, run.size)
        held["peak_device_mib"] = torch.cuda.max_memory_allocated(run.device) >> 20
        elsewhere = run.drawn_weights or cascade.preset.text.kind == "minilm"
        planned = plan.total_bytes - (plan.estimates["text"] if elsewhere else 0)
        held["planned_device_mib"] = planned >> 20
    return held


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    stages = list(dict.fromkeys(stage for result in results for stage in result["stages_ms"]))
    head = ["size", "pixels", *(f"{stage} ms" for stage in stages), "frame ms", "CPU ms", "fps"]
    head += ["first frame warm s", "cold s", "peak MiB"]
    rows = [
        [
            result["size"],
            f"{result['width']}x{result['height']}",
            *(f"{result['stages_ms'].get(stage, 0.0):.1f}" for stage in stages),
            f"{result['frame_ms']:.1f}",
            f"{result['frame_cpu_ms']:.1f}",
            f"{result['fps']:.1f}",
            f"{result['first_frame_warm_s']:.2f}",
            f"{result['first_frame_cold_s']:.2f}",
            str(result["peak_rss_mib"]),
        ]
        for result in results
    ]
    return markdown_table(head, rows)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--sizes", nargs="+", default=["0.5K", "1K", "2K"], help="sizes to time")
    parser.add_argument("--groups", type=int, default=6, help="timed groups of each size")
    parser.add_argument("--warmup", type=int, default=2, help="groups before those")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch")
    for switch in ("compile", "overlap"):
        parser.add_argument(
            f"--{switch}", action=argparse.BooleanOptionalAction, help="instead of the preset's"
        )
    parser.add_argument(
        "--linears", choices=["auto", "native", "int8", "fp8"], help="number type of linear layers"
    )
    parser.add_argument("--drawn-weights", action="store_true", help="random weights instead of the preset's")
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Time every size and print the table; 1 when a size makes wrong frames."""
    from ultraflash.server.size_timing import PROMPT

    args = parse_args(argv)
    results = []
    for size in args.sizes:
        run = Run(
            preset=args.preset,
            size=size,
            groups=args.groups,
            warmup=args.warmup,
            seed=args.seed,
            device=args.device,
            threads=args.threads,
            compile=args.compile,
            overlap=args.overlap,
            linears=args.linears,
            drawn_weights=args.drawn_weights,
        )
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                results.append(process.submit(time_run, run).result())
            except WrongFrames as error:
                print(f"not timed: {error}", file=sys.stderr)
                return 1
    print(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": "cascade",
            "preset": args.preset,
            "device": args.device,
            "compile": args.compile,
            "overlap": args.overlap,
            "linears": args.linears,
            "drawn_weights": args.drawn_weights,
            "prompt": PROMPT,
            **provenance(),
            "sizes": results,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
