"""The pictures that a stream starts from, as clean latents: a picture held for a block, or the end of a clip.

Shapes: B batch (1), C channels, F latent frames, T pixel frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.models.activation_peak import activation_peak
from ultraflash.models.device_memory import free_bytes
from ultraflash.models.errors import NotEnoughMemory
from ultraflash.models.frame_encoder import FrameEncoder, blank_frame_encoder, load_frame_encoder
from ultraflash.models.memory_plan import GIB
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES
from ultraflash.models.preset import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFormat:
    """Which frames a stream can start from: at most so many, of so many pixels, at so many a second."""

    frames: int
    height: int
    width: int
    fps: int


class ReferenceEncoder:
    """The encoder that belongs to a preset's latents."""

    def __init__(self, preset: Preset, encoder: FrameEncoder, device: torch.device) -> None:
        self._preset = preset
        self._encoder = encoder
        self._device = device

    @classmethod
    def load(cls, preset: Preset, device: torch.device) -> ReferenceEncoder:
        """Load the encoder of `mini`, or Wan's for a preset in the layout of the official files.

        Raises:
            MissingExtra: diffusers, which Wan's encoder wants, is not installed.
            MissingWeights: the encoder is not there.
            NotEnoughMemory: there is no room for it and what it computes; nothing was loaded.
        """
        free, needed = free_bytes(device), reference_bytes(preset)
        if free is not None and needed > free:
            raise NotEnoughMemory(
                f"starting a stream of {preset.name} from pictures needs {needed / GIB:.2f} GiB for their encoder, and "
                f"{free / GIB:.2f} GiB are free; start it from a prompt alone, or choose a smaller size",
                needed_bytes=needed,
                free_bytes=free,
            )
        return cls(preset, load_frame_encoder(preset, device=device), device)

    @property
    def format(self) -> ReferenceFormat:
        """What is of use: more frames than the window keeps beside the next block would be forgotten at once."""
        preset = self._preset
        spatial = preset.sizes[0].spatial
        return ReferenceFormat(
            frames=_pixel_frames(max(_whole_blocks(preset))),
            height=preset.base.rows * spatial,
            width=preset.base.cols * spatial,
            fps=preset.fps,
        )

    def encode(self, frames_THWC: Tensor) -> Tensor:
        """Clean latents (1, C, F, h, w) of whole blocks: the newest frames that fill them, the oldest one held in
        front where there are too few.

        Args:
            frames_THWC: uint8, RGB, T at least 1, of the size in :attr:`format`.

        Raises:
            ValueError: another size.
        """
        wanted = self.format
        given, *size = frames_THWC.shape[:3]
        if size != [wanted.height, wanted.width] or given < 1:
            raise ValueError(f"frames of {wanted.height}x{wanted.width} are wanted, not {size}")
        possible = [_pixel_frames(latents) for latents in _whole_blocks(self._preset)]
        frames = max((length for length in possible if length <= given), default=possible[0])
        held = frames_THWC[:1].expand(max(0, frames - given), -1, -1, -1)
        chosen = torch.cat((held, frames_THWC))[-frames:]
        pixels_BTCHW = chosen.to(self._device).permute(0, 3, 1, 2)[None].float() / 255
        return self._encoder.encode(pixels_BTCHW, self._encoder.init_memory()).transpose(1, 2)


def reference_bytes(preset: Preset) -> int:
    """Memory of a preset's encoder, exact, and of its pass over the longest reference, an estimate.

    The encoder is loaded by the first stream that starts from pictures, and stays.

    Raises:
        MissingExtra: diffusers, which Wan's encoder wants, is not installed.
    """
    blank = blank_frame_encoder(preset)
    wanted = ReferenceEncoder(preset, blank, torch.device("meta")).format

    def encode() -> Tensor:
        frames = torch.empty(1, wanted.frames, 3, wanted.height, wanted.width, device="meta")
        return blank.encode(frames, blank.init_memory())

    weights = sum(tensor.nbytes for tensor in blank.networks.state_dict().values())
    return weights + activation_peak(encode)


def _whole_blocks(preset: Preset) -> list[int]:
    """Latent frames of a stream's first block, its first two, and so on, while the next one has room beside them."""
    found: list[int] = []
    for block in _blocks(preset):
        total = block + (found[-1] if found else 0)
        if found and total > preset.base.window_frames - preset.base.block_frames:
            break
        found.append(total)
    return found


def _blocks(preset: Preset) -> Iterator[int]:
    start = 0
    while True:
        for frames in preset.group_at(start):
            yield frames
            start += frames


def _pixel_frames(latent_frames: int) -> int:
    return PATCH_FRAMES * latent_frames - UNTRIMMED_FRAMES
