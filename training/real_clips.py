"""Real and generated video clips from a folder of MP4 files, as training and held-out material.

T frames, C colours (RGB), H W rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ultraflash.models.errors import BadConfig

_HELD_OUT = ("01_dog",)
_HELD_OUT_EVERY = 5


def find_clips(folder: Path) -> tuple[list[Path], list[Path]]:
    """MP4 files below ``folder``: (for training, held out).

    The dog clip and every fifth of the generated ones (folder ``aigc``, by name) are held out.
    """
    files = sorted(folder.rglob("*.mp4"))
    if not files:
        raise BadConfig(f"{folder} holds no mp4 file", param="clips")
    generated = [file for file in files if file.parent.name == "aigc"]
    held_out = set(generated[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY])
    held_out |= {file for file in files if file.stem in _HELD_OUT}
    return [file for file in files if file not in held_out], sorted(held_out)


def read_frames(file: Path, *, count: int, start: int = 0) -> torch.Tensor:
    """Decode ``count`` frames from number ``start`` on: uint8 (T, C, H, W), fewer where the clip ends.

    Raises BadConfig where there is no such frame.
    """
    import av

    frames = []
    with av.open(str(file)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= start + count:
                break
            if number >= start:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
    if not frames:
        raise BadConfig(f"{file} has no frame number {start}", param="clips")
    return torch.stack(frames).permute(0, 3, 1, 2)
