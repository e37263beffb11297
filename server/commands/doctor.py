"""Say what this machine can run, before anything large is loaded.

Devices and their free memory, the video encoder, attention kernels, and for every preset: whether its weights are here,
and which of its sizes fit.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ultraflash.models.preset import Preset

GIB = 1 << 30
NOTHING_RUNS = 1
"""Exit status where no preset can run."""
OPTIONAL = {
    "triton": "sparse attention on a GPU",
    "flash_attn": "attention on a GPU",
    "xformers": "attention on a GPU",
    "torchao": "float8 linear layers on a GPU",
    "transformers": "the text encoder of the official presets",
    "huggingface_hub": "fetching their weights",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options: there are none."""


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 0 when a preset can run here, else 1."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for title, lines in (
        ("machine", machine()),
        ("video", encoders()),
        ("kernels", kernels()),
    ):
        _print(console, title, lines)
    runs = [name for name, usable in presets(console) if usable]
    console.print(default(), markup=False)
    verdict = f"can run here: {', '.join(runs)}" if runs else "no preset can run here"
    console.print(verdict, markup=False)
    return 0 if runs else NOTHING_RUNS


def devices() -> list[torch.device]:
    """GPUs, then the CPU."""
    import torch

    return [*(torch.device("cuda", i) for i in range(torch.cuda.device_count())), torch.device("cpu")]


def machine() -> Iterator[str]:
    """Versions, and every device with its free memory."""
    import torch

    from ultraflash.models.device import fastest_dtype
    from ultraflash.models.device_memory import free_bytes

    yield f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}"
    for device in devices():
        name = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        kind = str(fastest_dtype(device)).removeprefix("torch.")
        yield f"{device}: {name}, computes in {kind}, {_gib(free_bytes(device))} free"


def encoders() -> Iterator[str]:
    """Whether the encoder of the server opens here."""
    import av
    import numpy as np

    from ultraflash.server.media.h264 import H264Config, H264Encoder

    try:
        encoder = H264Encoder(H264Config.live(width=64, height=64, fps=16))
        units = encoder.encode(np.zeros((64, 64, 3), np.uint8), 0) + encoder.flush()
    except (av.FFmpegError, ValueError) as error:
        yield f"H.264 by x264: fails ({error})"
        return
    yield f"H.264 by x264: works ({len(units)} access unit of a black frame), PyAV {av.__version__}"


def kernels() -> Iterator[str]:
    """What block-sparse attention runs on each device, and which optional packages are here."""
    from ultraflash.kernels.backends import has_triton

    for device in devices():
        if device.type == "cuda":
            choice = "Triton, if its probe passes" if has_triton() else "gather: Triton is not installed"
        else:
            choice = "gather"
        yield f"block-sparse attention on {device}: {choice}"
        yield f"dense attention on {device}: {_dense_choice(device)}"
    for package, use in OPTIONAL.items():
        yield f"{package}: {'installed' if find_spec(package) else 'not installed'} ({use})"


def _dense_choice(device: torch.device) -> str:
    """The backends that a tiny call finds right, the one that is used first."""
    from ultraflash.kernels.attention import AUTOMATIC, backend_problem

    right = [name for name in AUTOMATIC if backend_problem(name, device) is None]
    others = f" ({', '.join(right[1:])} would do too)" if right[1:] else ""
    return f"{right[0]}{others}" if right else "nothing works"


def presets(console: Console) -> Iterator[tuple[str, bool]]:
    """Prints a section for every preset; yields its name and whether it can run on the best device."""
    from ultraflash.models.device_memory import free_bytes
    from ultraflash.models.inventory import extras, inventory
    from ultraflash.models.preset import available_presets, load_preset

    device = devices()[0]
    free = free_bytes(device)
    for name in available_presets():
        preset = load_preset(name)
        missing = [state.part for state in inventory(preset) if state.form == "missing"]
        lines = []
        if missing:
            lines.append(f"weights: {', '.join(missing)} missing; ultraflash models pull {name}")
        else:
            lines.append("weights: here")
        lines += [
            f"starting from pictures: {state.part} missing; ultraflash models pull {name}"
            for state in extras(preset)
            if state.form == "missing"
        ]
        fits = list(_sizes(preset, device, free))
        lines += [line for line, _ in fits]
        _print(console, f"preset {name}", lines)
        yield name, not missing and any(fit for _, fit in fits)


def default() -> str:
    """What ``serve`` and ``generate`` run without ``--preset``, and why."""
    from ultraflash.models.device_memory import free_bytes
    from ultraflash.models.preset_choice import choose_preset

    device = devices()[0]
    choice = choose_preset(device=device, free=free_bytes(device))
    return f"without --preset: {choice.preset}, since {choice.reason}"


def _sizes(preset: Preset, device: torch.device, free: int | None) -> Iterator[tuple[str, bool]]:
    """A line for every size, and whether it fits; without knowledge of the memory everything does."""
    from ultraflash.models.device import fastest_dtype
    from ultraflash.models.memory_plan import memory_plan

    for size in preset.sizes:
        needed = memory_plan(preset, size.name, dtype=fastest_dtype(device)).total_bytes
        fits = free is None or needed <= free
        yield (
            f"{size.name} {size.pixels}: {_gib(needed)} on {device}, {'fits' if fits else 'does not fit'}",
            fits,
        )


def _gib(count: int | None) -> str:
    return "unknown memory" if count is None else f"{count / GIB:.1f} GiB"


def _print(console: Console, title: str, lines: Iterator[str] | list[str]) -> None:
    console.print(title, style="bold", markup=False)
    for line in lines:
        console.print(f"  {line}", markup=False)
