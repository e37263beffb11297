"""Which weights of a preset are on this machine, and whether they are what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ultraflash.models.checkpoints.conversion import official_files, official_networks
from ultraflash.models.checkpoints.files import shapes_of, stored_files
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import MissingWeights
from ultraflash.models.loading import build_decoder, part_folder, parts_of
from ultraflash.models.preset import Preset
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.wan_vae import VAE, wan_vae
from ultraflash.models.weights import MANIFEST, check_fit, verify_manifest

Form = Literal["ready", "official", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """One network's weights on this machine.

    Attributes:
        part: which network.
        form: ``ready`` in files of ours, ``official`` files only (slower to start from), or ``missing``.
        folder: where they are looked for; None where the preset doesn't say.
        reason: of those that are missing, what was looked for.
    """

    part: str
    form: Form
    folder: Path | None
    reason: str = ""


def inventory(preset: Preset) -> tuple[PartState, ...]:
    """The state of every network that the preset needs files for."""
    return tuple(_state(preset, part) for part in parts_of(preset))


def extras(preset: Preset) -> tuple[PartState, ...]:
    """The state of what only streams that start from pictures need, where the preset says where it comes from."""
    return () if preset.source(VAE) is None else (_state(preset, VAE),)


def _state(preset: Preset, part: str) -> PartState:
    try:
        folder = part_folder(preset, part)
    except MissingWeights as error:
        return PartState(part=part, form="missing", folder=None, reason=error.message)
    try:
        if stored_files(folder, part):
            return PartState(part=part, form="ready", folder=folder)
        source = preset.source(part)
        if source is None:
            reason = f"no {part}.safetensors in {folder}"
            return PartState(part=part, form="missing", folder=folder, reason=reason)
        official_files(source, folder)
    except MissingWeights as error:
        return PartState(part=part, form="missing", folder=folder, reason=error.message)
    return PartState(part=part, form="official", folder=folder)


def verify(preset: Preset) -> dict[str, str]:
    """Check every network of a preset: digests against SHA256SUMS, then names and shapes against the preset. What it
    can do without is checked where it is here.

    Returns:
        What is wrong, by part; empty when all is well.
    """
    problems: dict[str, str] = {}
    hashed: dict[Path, str] = {}
    here = [state for state in extras(preset) if state.form != "missing"]
    for state in (*inventory(preset), *here):
        if state.form == "missing" or state.folder is None:
            problems[state.part] = state.reason
            continue
        problem = _check_shapes(preset, state)
        if not problem and state.form == "ready":
            if state.folder not in hashed:
                hashed[state.folder] = _check_digests(state.folder)
            problem = hashed[state.folder]
        if problem:
            problems[state.part] = problem
    return problems


def _check_digests(folder: Path) -> str:
    if not (folder / MANIFEST).is_file():
        return f"no {MANIFEST} in {folder}"
    try:
        verify_manifest(folder)
    except MissingWeights as error:
        return error.message
    return ""


def _check_shapes(preset: Preset, state: PartState) -> str:
    """What is wrong with the names and shapes of a network's tensors, or nothing."""
    assert state.folder is not None
    try:
        if state.form == "official":
            source = preset.source(state.part)
            assert source is not None
            official_networks(preset, source, official_files(source, state.folder))
            return ""
        files = stored_files(state.folder, state.part)
        found = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(files).items()}
        net = _skeleton(preset, state.part)
        if net is not None:
            check_fit(net, found, source=str(files[0]))
        elif found["shared.weight"].shape[1:] != (preset.text.width,):
            return f"{files[0]} makes states of another width than {preset.text.width}"
    except MissingWeights as error:
        return error.message
    except KeyError as error:
        return f"{state.folder} lacks {error}"
    return ""


def _skeleton(preset: Preset, part: str) -> nn.Module | None:
    """The network on the meta device; None for the text encoder, whose shape follows from its own tensors."""
    if part == VAE:
        return wan_vae()
    with torch.device("meta"):
        if part == "base":
            return CausalDiT(preset.base.dit)
        if preset.sr is not None and part in preset.sr_parts:
            return CausalDiT(preset.sr.dit)
        if part == "decoder":
            return build_decoder(preset)
        if part.startswith("upsampler_x"):
            return LatentUpsampler(preset.upsampler[int(part.removeprefix("upsampler_x"))])
    return None
