"""Speed of a preset, end to end: networks and encoder, size by size.

    python benchmarks/cascade.py                                    # the table
    python benchmarks/cascade.py --json benchmarks/results/cascade.json

Each size runs in a process of its own, so that its peak memory is its own. Before anything is timed the frames are
checked: their number, their shape, that they move, and that the same seed makes them again. What fails is not timed.
Stages run one after the other here; milliseconds are per frame of video.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from provenance import provenance
from result_table import markdown_table
from torch import Tensor

PROMPT = "a red hot air balloon over snowy mountains at dusk, camera drifting left"


class WrongFrames(Exception):
    """The cascade does not make what it should, so its speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to time.

    Args:
        preset: name or path.
        size: name or ``WIDTHxHEIGHT``.
        groups: timed groups, after ``warmup`` untimed ones of the same stream.
        device: torch device.
        threads: of torch; None leaves its choice.
    """

    preset: str
    size: str
    groups: int
    warmup: int
    seed: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        if self.groups < 1 or self.warmup < 1:
            raise ValueError("at least one timed and one warm-up group are needed")


def check_frames(cascade: Any, run: Run) -> None:
    """Raise WrongFrames unless a stream's first two groups are what they should be, twice."""
    from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES

    size = cascade.preset.size(run.size)
    streams = [cascade.open(PROMPT, size=run.size, seed=run.seed) for _ in range(2)]
    full = PATCH_FRAMES * cascade.preset.group_frames
    for expected in (full - UNTRIMMED_FRAMES, full):
        first, second = (cascade.next_group(stream) for stream in streams)
        if tuple(first.shape) != (expected, size.height, size.width, 3) or first.dtype != torch.uint8:
            raise WrongFrames(
                f"{run.size}: frames are {first.dtype} {tuple(first.shape)}, "
                f"not uint8 {(expected, size.height, size.width, 3)}"
            )
        if not torch.equal(first, second):
            raise WrongFrames(f"{run.size}: the same seed made other frames")
        if torch.equal(first[0], first[-1]) or first.float().std() < 1:
            raise WrongFrames(f"{run.size}: the picture is blank or stands still")


def time_size(run: Run) -> dict[str, Any]:
    """Load the preset, its modules included, and time one size; numbers ready for JSON."""
    started = perf_counter()
    from ultraflash.models.cascade import Cascade
    from ultraflash.server.media.h264 import H264Config, H264Encoder

    if run.threads:
        torch.set_num_threads(run.threads)
    cascade = Cascade.load(run.preset, device=run.device)
    size, fps = cascade.preset.size(run.size), cascade.preset.fps

    def open_encoder() -> H264Encoder:
        return H264Encoder(H264Config.live(width=size.width, height=size.height, fps=fps))

    load_seconds = perf_counter() - started
    cold_seconds = load_seconds + first_frame_seconds(cascade, run, open_encoder())
    check_frames(cascade, run)
    warm_seconds = first_frame_seconds(cascade, run, open_encoder())
    return {
        "size": size.name,
        "width": size.width,
        "height": size.height,
        "playback_fps": fps,
        "load_s": round(load_seconds, 3),
        "first_frame_cold_s": round(cold_seconds, 3),
        "first_frame_warm_s": round(warm_seconds, 3),
        **time_groups(cascade, run, open_encoder()),
        **peak_memory(run.device),
    }


def first_frame_seconds(cascade: Any, run: Run, encoder: Any) -> float:
    """From a prompt to the first encoded frame of its stream."""
    started = perf_counter()
    frames = cascade.next_group(cascade.open(PROMPT, size=run.size, seed=run.seed))
    encoder.encode(frames[0].numpy(), 0)
    return perf_counter() - started


def time_groups(cascade: Any, run: Run, encoder: Any) -> dict[str, Any]:
    """Milliseconds of each stage, frames per second and bitrate over the timed groups of one stream."""
    stream = cascade.open(PROMPT, size=run.size, seed=run.seed)
    stages: dict[str, float] = {}
    frames = coded_bytes = 0
    slowest_group = wall = cpu = 0.0
    for group in range(run.warmup + run.groups):
        wall_start, cpu_start = perf_counter(), process_time()
        made = cascade.next_group(stream)
        encode_start = perf_counter()
        coded = encode(encoder, made, stream.frames_emitted - len(made))
        wall_end = perf_counter()
        if group < run.warmup:
            continue
        for stage, seconds in {**stream.stage_seconds, "encode": wall_end - encode_start}.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        frames += len(made)
        coded_bytes += coded
        wall += wall_end - wall_start
        cpu += process_time() - cpu_start
        slowest_group = max(slowest_group, (wall_end - wall_start) / len(made))
    return {
        "frames": frames,
        "fps": round(frames / wall, 2),
        "stages_ms": {stage: round(1e3 * seconds / frames, 2) for stage, seconds in stages.items()},
        "frame_ms": round(1e3 * wall / frames, 2),
        "frame_ms_slowest_group": round(1e3 * slowest_group, 2),
        "frame_cpu_ms": round(1e3 * cpu / frames, 2),
        "mbit_per_s_of_video": round(8e-6 * coded_bytes / frames * cascade.preset.fps, 2),
    }


def encode(encoder: Any, frames_THWC: Tensor, index: int) -> int:
    """Encode frames, the first under number ``index``; bytes that came out."""
    units = [unit for i, frame in enumerate(frames_THWC.numpy()) for unit in encoder.encode(frame, index + i)]
    return sum(len(unit.data) for unit in units)


def peak_memory(device: str) -> dict[str, int]:
    """Most memory that this process has held, in MiB."""
    per_unit = 1 if sys.platform == "darwin" else 1024
    held = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit >> 20}
    if torch.device(device).type == "cuda":
        held["peak_device_mib"] = torch.cuda.max_memory_allocated(device) >> 20
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
    parser.add_argument("--json", type=Path, help="also write the results here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Time every size and print the table; 1 when a size makes wrong frames."""
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
        )
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                results.append(process.submit(time_size, run).result())
            except WrongFrames as error:
                print(f"not timed: {error}", file=sys.stderr)
                return 1
    print(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": "cascade",
            "preset": args.preset,
            "prompt": PROMPT,
            **provenance(),
            "sizes": results,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
