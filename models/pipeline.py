"""The cascade as users of diffusers expect a pipeline.

Shapes: B prompts, T frames, H W rows and columns, C colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.checkpoints.files import store
from ultraflash.models.checkpoints.lora import without_live_lora
from ultraflash.models.device import best_device, fastest_dtype
from ultraflash.models.errors import BadConfig, UnknownPreset
from ultraflash.models.noise import MAX_SEED
from ultraflash.models.preset import HERE, Preset, available_presets, dump_preset, load_preset
from ultraflash.models.stream_state import StreamState
from ultraflash.models.transition import Transition
from ultraflash.models.umt5 import UMT5Encoder
from ultraflash.models.weights import write_manifest

PRESET_FILE = "preset.toml"
DEFAULT_FRAMES = 81

OutputType = Literal["np", "pt", "pil"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoOutput:
    """What a pipeline makes.

    Attributes:
        frames: float32 in [0, 1]: for ``np`` an array (B, T, H, W, C), for ``pt`` a tensor (B, T, C, H, W); for
            ``pil`` a list of pictures per prompt.
        fps: playback rate.
        seeds: with which every video can be made again.
    """

    frames: Any
    fps: int
    seeds: tuple[int, ...]


class VideoStream:
    """Groups of frames of one stream, made as they are asked for; iterate over it, and steer it between groups."""

    def __init__(
        self, cascade: Cascade, state: StreamState, *, num_frames: int | None, output_type: OutputType
    ) -> None:
        self._cascade = cascade
        self._state = state
        self._left = num_frames
        self._output_type = output_type

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._left is not None and self._left <= 0:
            raise StopIteration
        frames_THWC = self._cascade.next_group(self._state)
        if self._left is not None:
            frames_THWC = frames_THWC[: self._left]
            self._left -= len(frames_THWC)
        return converted(frames_THWC, self._output_type)

    @property
    def seed(self) -> int:
        """With which the stream can be made again."""
        return self._state.seed

    def set_prompt(self, prompt: str, *, transition: Transition | None = None, groups: int = 1) -> None:
        """Show something else from the next group on.

        Args:
            prompt: what to show.
            transition: how the change comes about, see :mod:`ultraflash.models.transition`; the preset's way if absent.
            groups: over which a fade or a blend is spread; 1 for the others.

        Raises:
            EmptyPrompt, PromptTooLong, BadTransition: nothing has changed then.
        """
        self._cascade.set_prompt(self._state, prompt, transition=transition, groups=groups)

    def set_size(self, size: str) -> None:
        """Make another size from the next group on. Raises UnknownSize."""
        self._cascade.set_size(self._state, size)


class UltraFlashPipeline:
    """Prompt to video in one call, or group by group."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        torch_dtype: torch.dtype | None = None,
        token: str | None = None,
    ) -> UltraFlashPipeline:
        """Load a pipeline.

        Args:
            name: a preset, the path of its TOML file, a folder that :meth:`save_pretrained` wrote, or the
                ``owner/name`` of such a folder on the Hugging Face hub.
            device: torch device; by default a GPU where there is one, else the CPU.
            torch_dtype: of the matrix products; by default the floating type that the device is fastest in. Linear
                layers are in eight bits only where the preset says so outright, so that what is loaded can be saved.
            token: for the hub; ``HF_TOKEN`` is honoured without it.

        Raises:
            UnknownPreset, BadConfig, MissingWeights, MissingExtra, HubUnreachable.
        """
        where = best_device() if device is None else torch.device(device)
        dtype = torch_dtype or fastest_dtype(where)
        return cls(Cascade.load(_preset_of(name, token), device=str(where), dtype=dtype))

    @property
    def preset(self) -> Preset:
        """What it can make."""
        return self.cascade.preset

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_frames: int = DEFAULT_FRAMES,
        height: int | None = None,
        width: int | None = None,
        size: str | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        output_type: OutputType = "np",
    ) -> VideoOutput:
        """Make a video of every prompt.

        Args:
            prompt: what to show, or several.
            num_frames: T, from 1 on.
            height, width: of a size that the preset makes; or give ``size``.
            size: name of a size, or ``WIDTHxHEIGHT``; the preset's default without any of these.
            generator: draws the seeds, and so moves on.
            seed: of every video; drawn when absent, as is usual of torch's own generator without ``generator``.
            output_type: see :class:`VideoOutput`.

        Raises:
            BadConfig: options that exclude each other, or cannot be.
            EmptyPrompt, PromptTooLong, UnknownSize, InvalidSeed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise BadConfig("a video takes a prompt; none is given", param="prompt")
        videos, seeds = [], []
        for each in prompts:
            stream = self.stream(
                each,
                num_frames=num_frames,
                height=height,
                width=width,
                size=size,
                generator=generator,
                seed=seed,
                output_type=output_type,
            )
            videos.append(_joined(list(stream), output_type))
            seeds.append(stream.seed)
        frames: Any = videos
        if output_type == "np":
            frames = np.stack(videos)
        elif output_type == "pt":
            frames = torch.stack(videos)
        return VideoOutput(frames=frames, fps=self.preset.fps, seeds=tuple(seeds))

    def stream(
        self,
        prompt: str,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        size: str | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        output_type: OutputType = "np",
    ) -> VideoStream:
        """Start a stream; its groups come without the axis of prompts. Options as for a call.

        Args:
            num_frames: when to end; None for never.
        """
        if output_type not in get_args(OutputType):
            raise BadConfig(
                f"output_type is {', '.join(get_args(OutputType))}, not {output_type!r}", param="output_type"
            )
        if num_frames is not None and num_frames < 1:
            raise BadConfig(f"num_frames starts at 1, not {num_frames}", param="num_frames")
        if seed is not None and generator is not None:
            raise BadConfig("give seed or generator, not both", param="seed")
        if seed is None:
            seed = int(torch.randint(0, MAX_SEED, (), generator=generator, device=_device_of(generator)))
        state = self.cascade.open(prompt, size=_size_name(size, height, width), seed=seed)
        return VideoStream(self.cascade, state, num_frames=num_frames, output_type=output_type)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preset and weights, so that :meth:`from_pretrained` makes the same frames of them.

        Weights go out in the dtypes that they run in; low-rank weights beside the base are added in at their scale.

        Raises:
            BadConfig: linear layers run in eight bits, of which there is no way back; nothing was written.
        """
        if self.preset.precision.linears in ("int8", "fp8"):
            raise BadConfig(
                f"{self.preset.precision.linears} linears cannot be saved as weights; "
                'load the preset with precision.linears = "native" to save it',
                param="precision.linears",
            )
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        networks = self.cascade.networks
        for stem, net in networks.by_part.items():
            store(without_live_lora(net), target, stem)
        if isinstance(networks.text, UMT5Encoder):
            store(networks.text.state_dict(), target, "text")
            networks.text.write_tokenizer(target / "tokenizer.json")
        preset = replace(self.preset, weights=HERE, sources=())
        (target / PRESET_FILE).write_text(dump_preset(preset), encoding="utf-8")
        write_manifest(target)


def converted(frames_THWC: Tensor, output_type: OutputType) -> Any:
    """uint8 frames as an output type has them, see :class:`VideoOutput`, without the axis of prompts."""
    if output_type == "pil":
        from PIL import Image

        return [Image.fromarray(frame) for frame in frames_THWC.numpy()]
    scaled = frames_THWC.float().div_(255)
    return scaled.numpy() if output_type == "np" else scaled.permute(0, 3, 1, 2)


def _joined(groups: list[Any], output_type: OutputType) -> Any:
    if output_type == "np":
        return np.concatenate(groups)
    if output_type == "pt":
        return torch.cat(groups)
    return [picture for group in groups for picture in group]


def _preset_of(name: str | Path, token: str | None) -> Preset:
    path = Path(name)
    if str(name) in available_presets() or path.is_file():
        return load_preset(name)
    if not path.is_dir():
        if isinstance(name, Path) or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
            names = ", ".join(available_presets())
            raise UnknownPreset(
                f"no pipeline {str(name)!r}: no preset ({names}), TOML file, folder, or owner/name"
            )
        from ultraflash.models.hub import fetch_folder

        path = fetch_folder(str(name), token=token)
    if not (path / PRESET_FILE).is_file():
        raise UnknownPreset(f"{path} holds no {PRESET_FILE}; save_pretrained writes one")
    return load_preset(path / PRESET_FILE)


def _size_name(size: str | None, height: int | None, width: int | None) -> str | None:
    if height is None and width is None:
        return size
    if size is not None or height is None or width is None:
        raise BadConfig("give height and width together, or size", param="size")
    return f"{width}x{height}"


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
