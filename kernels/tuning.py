"""Which tiles are the fastest on the GPU at hand: measured once, among those that fit, and remembered.

The result is a JSON file in the user's cache folder, since it belongs to one GPU and one version of Triton.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ultraflash.kernels.tiles import Tiles


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
        path: the file to remember it in; `cache_path` by default. Without it, everything is timed anew.

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
    return f"{kernel} {dtype} {width}, {gpu}, Triton {version('triton')}"


def _load(path: Path) -> dict[str, dict[str, int]]:
    if not path.is_file():
        return {}
    known: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))
    return known
