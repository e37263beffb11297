"""How much memory of a device is free, and how much in use."""

from __future__ import annotations

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still allocate on a device; None where the system does not say.

    On a GPU, what torch holds in reserve counts as free. On a CPU it is what Linux calls available, or what a
    container's limit leaves, whichever is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    free = _available(_MEMINFO.read_text())
    left = _left_in_container(_CGROUP)
    return free if left is None else min(free, left)


def gpu_memory(device: torch.device) -> dict[str, tuple[int, int]]:
    """Bytes in use and in total of a GPU, by its name, such as ``cuda:0``; nothing for any other device.

    What other processes hold counts as in use, and so does what torch holds in reserve.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    return {f"cuda:{index}": (total - free, total)}


def _available(meminfo: str) -> int:
    """``MemAvailable`` of /proc/meminfo, which counts in units of 1024 bytes."""
    for line in meminfo.splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    raise ValueError("/proc/meminfo lacks MemAvailable")


def _left_in_container(folder: Path) -> int | None:
    """What a limit of cgroup version 2 leaves; None without one. File pages that Linux can drop count as left."""
    limit, used, detail = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or limit.read_text().strip() == "max":
        return None
    droppable = next(
        (
            int(line.split()[1])
            for line in detail.read_text().splitlines()
            if line.startswith("inactive_file ")
        ),
        0,
    )
    return max(0, int(limit.read_text()) - int(used.read_text()) + droppable)
