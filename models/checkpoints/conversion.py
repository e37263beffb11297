"""The official files of a network, as networks of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ultraflash.models.checkpoints.files import read_checkpoint, read_network, store
from ultraflash.models.checkpoints.lora import low_rank_pairs, merged
from ultraflash.models.checkpoints.naming import (
    halves,
    trimmed_growth,
    umt5_names,
    upsampler_factor,
    wan_names,
)
from ultraflash.models.checkpoints.vae_naming import wan_vae_names
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import MissingWeights
from ultraflash.models.preset import Preset
from ultraflash.models.sources import Source
from ultraflash.models.tiny_decoder import DecoderConfig, EncoderConfig, TinyDecoder, TinyEncoder
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.wan_vae import VAE, wan_vae
from ultraflash.models.weights import check_fit, write_manifest

LORA = "lora"
"""Stem of low-rank weights that stay beside the base."""
TOKENIZER = "tokenizer.json"
_WEIGHTS = (".pt", ".pth", ".safetensors")

Networks = dict[str, dict[str, Tensor]]
"""Tensors in our names by the stem of the file that they go to."""


def official_files(source: Source, folder: Path) -> tuple[Path, ...]:
    """Files of ``source`` in a folder that is laid out as its repository, or that just holds them; in their order.

    Raises:
        MissingWeights: one is absent; the message says which, and where to get it.
    """
    found: list[Path] = []
    for pattern in (*source.files, *([source.lora] if source.lora else [])):
        matches = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not matches and Path(pattern).name != "*":
            matches = sorted(path for path in folder.glob(Path(pattern).name) if path.is_file())
        if not matches and Path(pattern).name == "*" and (folder / TOKENIZER).is_file():
            matches = [folder / TOKENIZER]
        if not matches:
            told = "" if source.factor is None else f" of factor {source.factor}"
            raise MissingWeights(
                f"no {pattern}{told} in {folder}; it is a file of https://huggingface.co/{source.repo}",
                param="weights",
            )
        found += matches
    return tuple(found)


def official_networks(preset: Preset, source: Source, files: Iterable[Path]) -> Networks:
    """Read the official files of one source under our names, and check that they fit the preset.

    Args:
        preset: whose networks they are to be.
        source: what they are.
        files: from :func:`official_files` or the hub.

    Returns:
        What ``source.part`` needs under that stem, and what else the files hold under others: ``encoder`` beside the
        decoder, ``lora`` beside the base.

    Raises:
        MissingWeights: a file is broken, or holds another network.
    """
    weights = [path for path in files if path.suffix in _WEIGHTS]
    if source.factor is not None:
        found: Networks = {source.part: _upsampler(preset, source, weights)}
    elif source.part == "decoder":
        found = _autoencoder(preset, _read_all(weights), source=str(weights[0]))
    elif source.part == "text":
        found = {"text": umt5_names(_read_all(weights), source=str(weights[0]))}
    elif source.part == VAE:
        found = {VAE: wan_vae_names(_read_all(weights), source=str(weights[0]))}
    else:
        found = _transformer(source, weights)
    net = None if source.part == "text" else blueprint(preset, source.part)
    if net is not None:
        check_fit(net, found[source.part], source=str(weights[0]))
        found[source.part] = _in_stored_dtypes(found[source.part], net)
    return found


def convert(preset: Preset, source: Source, files: Iterable[Path], folder: Path) -> None:
    """Write the official files of one source as safetensors of ours, with their SHA256SUMS. Raises MissingWeights."""
    files = tuple(files)
    for stem, tensors in official_networks(preset, source, files).items():
        store(tensors, folder, stem)
    for path in files:
        if path.name == TOKENIZER:
            (folder / TOKENIZER).write_bytes(path.read_bytes())
    write_manifest(folder)


def blueprint(preset: Preset, part: str) -> nn.Module:
    """A network of the preset on the meta device, in the dtypes that it is stored in. Not of the text encoder.

    Raises:
        MissingWeights: the preset has no such network.
        MissingExtra: it is Wan's VAE, and diffusers is not installed.
    """
    if part == VAE:
        return wan_vae()
    with torch.device("meta"):
        if part == "base":
            return CausalDiT(preset.base.dit).cast(torch.bfloat16)
        if preset.sr is not None and part in preset.sr_parts:
            return CausalDiT(preset.sr.dit).cast(torch.bfloat16)
        if part == "decoder" and isinstance(preset.decoder, DecoderConfig):
            return TinyDecoder(preset.decoder)
        for factor, config in preset.upsampler.items():
            if part == f"upsampler_x{factor}":
                return LatentUpsampler(config)
    raise MissingWeights(f"{preset.name} has no {part} that official files could be", param="sources")


def _transformer(source: Source, weights: list[Path]) -> Networks:
    lora = [path for path in weights if source.lora and path.name == Path(source.lora).name]
    own = [path for path in weights if path not in lora]
    tensors = wan_names(_read_all(own), source=str(own[0]))
    if not lora:
        return {source.part: tensors}
    checkpoint = read_checkpoint(lora[0])
    pairs = low_rank_pairs(checkpoint, source=str(lora[0]))
    if source.lora_live:
        halves_of = {
            f"{layer}.lora_{half}.weight": tensor
            for layer, pair in pairs.items()
            for half, tensor in (("A", pair.down_RI), ("B", pair.up_OR))
        }
        return {source.part: tensors, LORA: halves_of}
    alpha, scale = source.lora_alpha, source.lora_scale
    return {source.part: merged(tensors, pairs, alpha=alpha, scale=scale, source=str(lora[0]))}


def _upsampler(preset: Preset, source: Source, weights: list[Path]) -> dict[str, Tensor]:
    """The one of several files that enlarges as far as the part's name says."""
    wanted = source.factor
    found: dict[str, int | None] = {}
    for path in weights:
        tensors = read_network(path)
        factor = upsampler_factor({key: tensor.shape for key, tensor in tensors.items()})
        if factor == wanted:
            return tensors
        found[path.name] = factor
    sizes = ", ".join(size.name for size in preset.sizes if size.refine and size.factor == wanted)
    raise MissingWeights(
        f"none of these files holds an upsampler of factor {wanted}: "
        + ", ".join(f"{name} (factor {factor or 'unknown'})" for name, factor in found.items())
        + f". Put the file that does into {source.folder}, under any name like {source.files[0]}: its factor is read "
        f"from its shapes. Only {sizes} of {preset.name} needs it",
        param="weights",
    )


def _autoencoder(preset: Preset, tensors: Mapping[str, Tensor], *, source: str) -> Networks:
    encoder, decoder = halves(tensors)
    shapes = {key: value.shape for key, value in blueprint(preset, "decoder").state_dict().items()}
    found: Networks = {"decoder": trimmed_growth(decoder, shapes)}
    if encoder:
        with torch.device("meta"):
            net = TinyEncoder(EncoderConfig(latent_channels=preset.decoder.latent_channels))
        check_fit(net, encoder, source=source)
        found["encoder"] = encoder
    return found


def _read_all(paths: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in paths:
        part = read_network(path)
        if twice := sorted(tensors.keys() & part.keys()):
            raise MissingWeights(f"{path} holds {twice[:4]} again", param="weights")
        tensors.update(part)
    return tensors


def _in_stored_dtypes(tensors: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Transformers in bfloat16, but for what stays float32 in them; smaller networks as they came."""
    if not isinstance(net, CausalDiT):
        return dict(tensors)
    wanted = net.state_dict()
    return {key: tensor.to(wanted[key].dtype) for key, tensor in tensors.items()}
