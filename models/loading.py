"""The networks of a preset, with their weights: found, checked and put on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ultraflash.models.checkpoints.conversion import (
    LORA,
    TOKENIZER,
    official_files,
    official_networks,
)
from ultraflash.models.checkpoints.files import read_stored, stored_files
from ultraflash.models.checkpoints.lora import LiveLora, low_rank_pairs
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import MissingWeights
from ultraflash.models.patch_autoencoder import PatchConfig, PatchDecoder
from ultraflash.models.preset import Preset
from ultraflash.models.sources import Source
from ultraflash.models.text_encoder import TextEncoder
from ultraflash.models.tiny_decoder import TinyDecoder
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.weights import MANIFEST, SHIPPED, assign_strict, verify_manifest

Decoder = PatchDecoder | TinyDecoder
"""Either makes pixels of latents by the same two calls, ``init_memory`` and ``decode_uint8``."""

QUICKLY_HASHED = 1 << 30
"""Bytes up to which weights are hashed at every start; what is larger is left to ``ultraflash models verify``."""

NetT = TypeVar("NetT", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What a cascade runs.

    Attributes:
        upsamplers: by factor.
        sr: by part; none where base latents are decoded.
        lora: low-rank weights that stay beside the base, if any.
    """

    text: TextEncoder
    base: CausalDiT
    upsamplers: dict[int, LatentUpsampler]
    sr: dict[str, CausalDiT]
    decoder: Decoder
    lora: LiveLora | None

    @property
    def by_part(self) -> dict[str, nn.Module]:
        """Those with weights of the preset by the names of their files: all but the text encoder."""
        upsamplers = {f"upsampler_x{factor}": net for factor, net in self.upsamplers.items()}
        return {"base": self.base, "decoder": self.decoder, **upsamplers, **self.sr}


def load_networks(preset: Preset, *, device: torch.device, dtype: torch.dtype) -> Networks:
    """Load all networks of a preset.

    Args:
        preset: which.
        device: where stored weights go, straight from the file.
        dtype: of the text encoder, where it is a network on the device. The others come as they are stored.

    Raises:
        MissingWeights: weights are absent or do not fit; the message says what to do.
    """
    for folder in {part_folder(preset, part) for part in parts_of(preset)}:
        if _bytes_of(folder) <= QUICKLY_HASHED:
            verify_manifest(folder)
    base = _network(preset, "base", device, partial(CausalDiT, preset.base.dit))
    return Networks(
        text=load_text(preset, device=device, dtype=dtype),
        base=base,
        upsamplers={
            factor: _network(preset, f"upsampler_x{factor}", device, partial(LatentUpsampler, config))
            for factor, config in preset.upsampler.items()
        },
        sr=_super_resolution(preset, device),
        decoder=_network(preset, "decoder", device, partial(build_decoder, preset)),
        lora=_live_lora(preset, base, device),
    )


def build_decoder(preset: Preset) -> Decoder:
    """The preset's decoder, without its weights."""
    config = preset.decoder
    return PatchDecoder(config) if isinstance(config, PatchConfig) else TinyDecoder(config)


def load_text(preset: Preset, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """The preset's text encoder. Raises MissingWeights."""
    if preset.text.kind == "minilm":
        from ultraflash.models.text import MiniLMEncoder

        return MiniLMEncoder()
    from ultraflash.models.umt5 import UMT5Encoder

    tensors = part_tensors(preset, "text", device)
    return UMT5Encoder.of_tensors(tensors, tokenizer_of(preset), preset.text, device=device, dtype=dtype)


def parts_of(preset: Preset) -> tuple[str, ...]:
    """Names of the networks that a preset needs files for."""
    refining = (
        [*preset.sr_parts, *(f"upsampler_x{factor}" for factor in preset.upsampler)] if preset.sr else []
    )
    text = [] if preset.text.kind == "minilm" else ["text"]
    return ("base", *refining, "decoder", *text)


def part_folder(preset: Preset, part: str) -> Path:
    """Where the weights of one network lie: the preset's own folder, shipped or not, or that of its source.

    Raises:
        MissingWeights: the preset names a folder that is none, or no source of that network.
    """
    if preset.weights:
        shipped = SHIPPED / preset.weights
        folder = shipped if shipped.is_dir() else Path(preset.weights)
        if not folder.is_dir():
            raise MissingWeights(
                f"{preset.name} wants weights in {folder}, which is no folder; "
                "`weights` in a preset is a folder of the package, or a path",
                param="weights",
            )
        return folder
    return _source(preset, part).folder


def part_tensors(preset: Preset, part: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Tensors of one network in our names, from files of ours or from the official ones.

    Raises:
        MissingWeights: neither is there, or they don't fit.
    """
    folder = part_folder(preset, part)
    if files := stored_files(folder, part):
        return read_stored(files, device)
    source = preset.source(part)
    if source is None:
        raise MissingWeights(
            f"no weights at {folder / part}.safetensors; "
            "install the package again, or make weights with: ultraflash train",
            param="weights",
        )
    return official_networks(preset, source, _official(preset, source, folder))[part]


def tokenizer_of(preset: Preset) -> Path:
    """The tokenizer's file of a text encoder that has one of its own. Raises MissingWeights."""
    folder = part_folder(preset, "text")
    if (folder / TOKENIZER).is_file():
        return folder / TOKENIZER
    source = _source(preset, "text")
    for path in _official(preset, source, folder):
        if path.name == TOKENIZER:
            return path
    raise MissingWeights(f"no {TOKENIZER} in {folder}; {_next_step(preset, source, folder)}", param="weights")


def _network(preset: Preset, part: str, device: torch.device, build: Callable[[], NetT]) -> NetT:
    with torch.device("meta"):
        net = build()
    assign_strict(net, part_tensors(preset, part, device), source=f"{part_folder(preset, part)} ({part})")
    return net


def _super_resolution(preset: Preset, device: torch.device) -> dict[str, CausalDiT]:
    if preset.sr is None:
        return {}
    build = partial(CausalDiT, preset.sr.dit)
    return {part: _network(preset, part, device, build) for part in preset.sr_parts}


def _live_lora(preset: Preset, base: CausalDiT, device: torch.device) -> LiveLora | None:
    source = preset.source("base")
    if source is None or not source.lora_live:
        return None
    folder = part_folder(preset, "base")
    files = stored_files(folder, LORA)
    if files:
        tensors = read_stored(files, device)
    else:
        tensors = official_networks(preset, source, _official(preset, source, folder))[LORA]
    pairs = low_rank_pairs(tensors, source=str(folder))
    return LiveLora(base, pairs, alpha=source.lora_alpha, scale=source.lora_scale, source=str(folder))


def _official(preset: Preset, source: Source, folder: Path) -> tuple[Path, ...]:
    try:
        return official_files(source, folder)
    except MissingWeights as error:
        raise MissingWeights(
            f"{preset.name} has no {source.part}: {error.message}. {_next_step(preset, source, folder)}",
            param="weights",
        ) from error


def _next_step(preset: Preset, source: Source, folder: Path) -> str:
    return f"Fetch it with `ultraflash models pull {preset.name}`, or put {source.told} into {folder}"


def _source(preset: Preset, part: str) -> Source:
    source = preset.source(part)
    if source is None:
        raise MissingWeights(f"{preset.name} names no source of its {part}", param="sources")
    return source


def _bytes_of(folder: Path) -> int:
    """Size of the files that a folder's manifest lists; 0 without one."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return 0
    names = [line.partition("  ")[2] for line in manifest.read_text(encoding="utf-8").splitlines()]
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())


def channels_last(net: NetT) -> NetT:
    """Lay convolution weights out as the frames are: several times faster on a CPU."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
