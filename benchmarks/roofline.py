"""Predict frames per second and memory of a preset on a GPU, from its arithmetic, its memory traffic and its plan.

python benchmarks/roofline.py --preset ultraflash-1k --gpu H100

A stage takes at least its FLOPs over the peak of the tensor cores and at least its bytes over the memory's bandwidth,
whichever is longer. No kernel reaches either, so the table also shows what is left at a given efficiency. Memory is
that of the plan by which a preset is refused where it does not fit: networks, one stream and the largest pass, in
bfloat16. It is a prediction, not a measurement.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costs import StageCost, stage_costs
from provenance import provenance

from ultraflash.models.memory_plan import GIB, MemoryPlan, memory_plan
from ultraflash.models.preset import Preset, Size, load_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Data-sheet numbers: dense bfloat16 with float32 accumulation, memory bandwidth and size."""

    name: str
    teraflops: float
    gigabytes_per_s: float
    memory_gib: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100", teraflops=312, gigabytes_per_s=2039, memory_gib=80),
        Gpu(name="4090", teraflops=165, gigabytes_per_s=1008, memory_gib=24),
        Gpu(name="H100", teraflops=989, gigabytes_per_s=3350, memory_gib=80),
        Gpu(name="H200", teraflops=989, gigabytes_per_s=4800, memory_gib=141),
        Gpu(name="B200", teraflops=2250, gigabytes_per_s=8000, memory_gib=180),
    )
}


def milliseconds(stage: StageCost, gpu: Gpu) -> tuple[float, str]:
    """Least time of a frame in a stage, and what bounds it."""
    compute = stage.frame.flops / (gpu.teraflops * 1e9)
    traffic = stage.frame.bytes / (gpu.gigabytes_per_s * 1e6)
    return max(compute, traffic), "compute" if compute >= traffic else "memory"


def memory(plan: MemoryPlan, gpu: Gpu) -> dict[str, Any]:
    """What a plan takes of a GPU, and how many streams at a time fit; 0 where none does."""
    room = int(gpu.memory_gib * GIB) - (plan.total_bytes - plan.stream_bytes)
    return {
        "gib": plan.total_bytes / GIB,
        "weights_gib": plan.loaded_bytes / GIB,
        "stream_gib": plan.stream_bytes / GIB,
        "pass_gib": plan.estimates["activations"] / GIB,
        "of_gib": gpu.memory_gib,
        "streams": max(0, room // plan.stream_bytes),
    }


def predict(preset: Preset, size: Size, gpu: Gpu, *, efficiency: float, plan: MemoryPlan) -> dict[str, Any]:
    """The prediction as plain data."""
    stages = []
    for stage in stage_costs(preset, size):
        least, bound = milliseconds(stage, gpu)
        stages.append(
            {
                "stage": stage.name,
                "gflop_per_frame": stage.frame.flops / 1e9,
                "megabytes_per_frame": stage.frame.bytes / 1e6,
                "least_ms": least,
                "bound": bound,
            }
        )
    total = sum(stage["least_ms"] for stage in stages)
    return {
        "preset": preset.name,
        "size": size.name,
        "gpu": gpu.name,
        "stages": stages,
        "fps_at_peak": 1000 / total,
        "fps": 1000 * efficiency / total,
        "efficiency": efficiency,
        "playback_fps": preset.fps,
        "memory": memory(plan, gpu),
    }


def print_table(prediction: dict[str, Any]) -> None:
    """Markdown on standard output."""
    print(f"\n{prediction['preset']} {prediction['size']} on {prediction['gpu']} (predicted, not measured)\n")
    print("| stage | GFLOP a frame | MB a frame | least ms a frame | bound by |")
    print("| --- | --- | --- | --- | --- |")
    for stage in prediction["stages"]:
        if stage["gflop_per_frame"]:
            print(
                f"| {stage['stage']} | {stage['gflop_per_frame']:.1f} | {stage['megabytes_per_frame']:.1f} "
                f"| {stage['least_ms']:.3f} | {stage['bound']} |"
            )
    print(
        f"\nat peak {prediction['fps_at_peak']:.1f} fps, at {prediction['efficiency']:.0%} of it "
        f"{prediction['fps']:.1f} fps; playback wants {prediction['playback_fps']}"
    )
    room = prediction["memory"]
    fits = f"{room['streams']} at a time fit" if room["streams"] else "does not fit"
    print(
        f"memory {room['gib']:.1f} of {room['of_gib']:.0f} GiB: networks {room['weights_gib']:.1f}, "
        f"a stream {room['stream_gib']:.2f}, the largest pass {room['pass_gib']:.2f}; {fits}"
    )


def main() -> None:
    """Read the options, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="ultraflash-1k", help="name or TOML file")
    parser.add_argument("--gpu", choices=[*GPUS, "all"], default="H100")
    parser.add_argument("--size", help="of the preset; all of them if not given")
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak that kernels reach")
    parser.add_argument("--json", type=Path, help="write the predictions there too")
    args = parser.parse_args()
    if not 0 < args.efficiency <= 1:
        parser.error("--efficiency lies in (0, 1]")
    preset = load_preset(args.preset)
    sizes = [preset.size(args.size)] if args.size else list(preset.sizes)
    gpus = list(GPUS.values()) if args.gpu == "all" else [GPUS[args.gpu]]
    plans = {size.name: memory_plan(preset, size.name) for size in sizes}
    predictions = [
        predict(preset, size, gpu, efficiency=args.efficiency, plan=plans[size.name])
        for gpu in gpus
        for size in sizes
    ]
    for prediction in predictions:
        print_table(prediction)
    if args.json is not None:
        report = {"benchmark": "roofline", **provenance(), "predictions": predictions}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
