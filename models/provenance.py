"""Where a number comes from: the commit, the machine and the versions that every result of a benchmark carries."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ultraflash.models.cores import cores

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ultraflash", "torch", "numpy", "onnxruntime", "av", "triton")


def provenance() -> dict[str, Any]:
    """Commit, machine and versions, ready for JSON."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }


def commit() -> str:
    """The commit of the tree, with ``+changes`` when files differ from it; ``unknown`` for an installed package, be it
    inside somebody's repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", str(Path(__file__).resolve())],
            check=True,
            capture_output=True,
        )
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        status = subprocess.run(
            [*git, "status", "--porcelain"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if status.strip() else "")


def installed(name: str) -> str | None:
    """Version of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Processor, cores, threads, memory, accelerators, and how busy the machine was when asked."""
    return {
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def cpu_name() -> str:
    """Model of the processor as the system calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
