"""Which tiles are the fastest on the GPU at hand: measured once, among those that fit, and remembered.

The result is a JSON file in the user's cache folder, since it belongs to one GPU, one version of Triton and one of the
kernels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ultraflash.kernels.tiles import Tiles

KERNELS = Path(__file__).parent


def cache_path() -> Path:
    """Where results are remembered: ``$XDG_CACHE_HOME/ultraflash/tiles.json``, ``~/.cache`` by default."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "ultraflash" / "tiles.json"


def tune(
    candidates: Iterable[Tiles], seconds: Callable[[Tiles], float], *, name: str, path: Path | None = None
) -> Tiles:
    """Time every candidate, remember the fastest under `name`, and return it; what is remembered is not timed again.

    Args:
        candidates: such as `tiles.survivors`; at least one. What is remembered counts if it is one of them.
        seconds: how long a call with these tiles takes.
        name: see `tuning_name`.
        path: the file to remember it in; `cache_path` by default. Remove the file to time everything anew.

    Raises:
        ValueError: no candidates.
    """
    choices = list(candidates)
    remembered = tuned(name, path=path)
    if remembered is not None and remembered in choices:
        return remembered
    timed = [(seconds(tiles), tiles) for tiles in choices]
    if not timed:
        raise ValueError(
            f"no tiles to choose from for {name}; run benchmarks/kernel_sweep.py for this device"
        )
    best = min(timed, key=lambda pair: pair[0])[1]
    target = path or cache_path()
    known = _load(target)
    known[name] = asdict(best)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")
    fresh.replace(target)
    return best


def tuned(name: str, *, path: Path | None = None) -> Tiles | None:
    """What `tune` remembered, or None."""
    found = _load(path or cache_path()).get(name)
    return None if found is None else Tiles(**found)


def tuning_name(kernel: str, gpu: str, dtype: str, width: int) -> str:
    """What a result is valid for, as one line; `gpu` as PyTorch names it."""
    return f"{kernel} {dtype} {width}, {gpu}, Triton {version('triton')}, source {source_digest(KERNELS)}"


@functools.cache
def source_digest(folder: Path) -> str:
    """Eight hexadecimal digits of the device code below a folder, that of all kernels, since they share functions."""
    digest = hashlib.sha256()
    for path in device_code(folder):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def device_code(folder: Path) -> list[Path]:
    """The files with functions for a GPU in the folder of `ultraflash.kernels`."""
    return [folder / "online_softmax.py", *sorted(folder.glob("*/triton*.py"))]


def _load(path: Path) -> dict[str, dict[str, int]]:
    if not path.is_file():
        return {}
    known: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))
    return known
