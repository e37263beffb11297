"""PSNR, SSIM and VMAF of videos, by the libvmaf of an ffmpeg that has it, and flicker.

Shapes: T frames, H W pixel rows and columns; frames are uint8 RGB (T, H, W, 3).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

# The score's key in libvmaf's log, by our name.
POOLED = {"psnr": "psnr_y", "ssim": "float_ssim", "vmaf": "vmaf"}


def vmaf_ffmpeg() -> str | None:
    """An ffmpeg with libvmaf: that of the package imageio-ffmpeg, else the system's; None where neither has it."""
    candidates = [shutil.which("ffmpeg")]
    if find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        candidates.insert(0, imageio_ffmpeg.get_ffmpeg_exe())
    for program in candidates:
        if program is None:
            continue
        filters = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True)
        if " libvmaf " in filters.stdout:
            return program
    return None


def compare(program: str, made_THWC: Tensor, true_THWC: Tensor, *, threads: int = 2) -> dict[str, float]:
    """Scores of frames against the true ones, mean over frames.

    Args:
        program: an ffmpeg, see `vmaf_ffmpeg`.
        made_THWC, true_THWC: of the same shape, H and W even.
        threads: of libvmaf.

    Returns:
        ``psnr`` of the luma in dB, ``ssim`` in [0, 1], ``vmaf`` in [0, 100], ``flicker``: mean absolute difference of
        the changes from frame to frame, in grey levels.
    """
    if made_THWC.shape != true_THWC.shape:
        raise ValueError(f"{tuple(made_THWC.shape)} against {tuple(true_THWC.shape)}")
    _, height, width, _ = true_THWC.shape
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.json"
        inputs = []
        for name, frames in (("made", made_THWC), ("true", true_THWC)):
            path = Path(folder) / f"{name}.rgb"
            path.write_bytes(frames.contiguous().numpy().tobytes())
            inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", str(path)]
        convert = "format=yuv420p"
        graph = (
            f"[0:v]{convert}[a];[1:v]{convert}[b];[a][b]libvmaf=log_fmt=json:log_path={log}:"
            f"n_threads={threads}:feature=name=psnr|name=float_ssim"
        )
        subprocess.run(
            [program, "-hide_banner", "-loglevel", "error", *inputs, "-lavfi", graph, "-f", "null", "-"],
            check=True,
        )
        pooled = json.loads(log.read_text())["pooled_metrics"]
    scores = {name: round(float(pooled[key]["mean"]), 4) for name, key in POOLED.items()}
    return {**scores, "flicker": round(flicker(made_THWC, true_THWC), 4)}


def flicker(made_THWC: Tensor, true_THWC: Tensor) -> float:
    """Mean absolute difference of the changes from frame to frame, in grey levels."""
    total = 0.0
    for index in range(1, len(made_THWC)):
        made, true = (frames[index].short() - frames[index - 1].short() for frames in (made_THWC, true_THWC))
        total += (made - true).abs().to(torch.float32).mean().item()
    return total / max(1, len(made_THWC) - 1)
