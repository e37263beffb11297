"""Atomic checkpoints of a training run.

A checkpoint is a folder ``step-00001200`` that holds ``model.safetensors``, ``ema.safetensors``,
``optimizer.pt`` (the only pickle, read with ``weights_only=True``) and ``state.json``. It is written beside its
final place, flushed to disk and renamed, so a folder of that name is always whole: a kill at any moment costs
at most the steps since the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_PREFIX = "step-"
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. ``elapsed`` counts training seconds over all of its lives, without the pauses between."""

    step: int
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    progress: Progress
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    config: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write ``checkpoint`` under ``root`` and delete all but the newest ``keep``. Returns its folder."""
    name = f"{_PREFIX}{checkpoint.progress.step:08d}"
    root.mkdir(parents=True, exist_ok=True)
    unfinished = root / f"{_UNFINISHED}{name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    save_file(_on_cpu(checkpoint.model), unfinished / "model.safetensors")
    save_file(_on_cpu(checkpoint.ema), unfinished / "ema.safetensors")
    torch.save(checkpoint.optimizer, unfinished / "optimizer.pt")
    state = {
        "step": checkpoint.progress.step,
        "elapsed": checkpoint.progress.elapsed,
        "config": checkpoint.config,
    }
    (unfinished / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    for file in unfinished.iterdir():
        _flush(file)
    final = root / name
    shutil.rmtree(final, ignore_errors=True)
    os.replace(unfinished, final)
    _flush(root)
    for old in _folders(root)[:-keep]:
        shutil.rmtree(old)
    return final


def load_latest(root: Path) -> Checkpoint | None:
    """Read the newest checkpoint under ``root``, or None where there is none."""
    folders = _folders(root)
    if not folders:
        return None
    folder = folders[-1]
    state = json.loads((folder / "state.json").read_text())
    return Checkpoint(
        progress=Progress(step=state["step"], elapsed=state["elapsed"]),
        model=load_file(folder / "model.safetensors"),
        ema=load_file(folder / "ema.safetensors"),
        optimizer=torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"),
        config=state["config"],
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}")
    unfinished.write_bytes(data)
    _flush(unfinished)
    os.replace(unfinished, path)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.name.startswith(_PREFIX))


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
