"""Which preset to run where nobody has named one: the best that this machine has weights and memory for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ultraflash.models.device import best_device, fastest_dtype
from ultraflash.models.device_memory import free_bytes
from ultraflash.models.errors import UnknownSize
from ultraflash.models.inventory import inventory
from ultraflash.models.memory_plan import GIB, memory_plan
from ultraflash.models.preset import Preset, available_presets, load_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetChoice:
    """A preset and why it is the one.

    Attributes:
        preset: its name.
        reason: for people, in one line.
    """

    preset: str
    reason: str


def best_preset(size: str | None = None) -> PresetChoice:
    """:func:`choose_preset` for the device that is used where none is named."""
    device = best_device()
    return choose_preset(size, device=device, free=free_bytes(device))


def choose_preset(size: str | None = None, *, device: torch.device, free: int | None) -> PresetChoice:
    """Choose among the presets that come with the package.

    Args:
        size: what streams will have, by name or ``WIDTHxHEIGHT``; each preset's default size if None.
        device: where it is to run.
        free: bytes that are free there; None where the system does not say, and everything fits.

    Returns:
        The first in order of quality that nothing speaks against. The last one, whose weights are in the package, is
        chosen in any case: loading it says what is wrong, if anything is.
    """
    presets = best_first()
    against: list[str] = []
    for preset in presets:
        problem = _problem(preset, size, device, free)
        if problem is None:
            break
        against.append(f"{preset.name} {problem}")
    others = "; ".join(against)
    if problem is not None:
        return PresetChoice(preset=preset.name, reason=f"nothing runs here as it is: {others}")
    if device.type == "cpu":
        return PresetChoice(preset=preset.name, reason="there is no GPU, and the others want one")
    reason = "its weights are here and fit" + (f"; {others}" if others else "")
    return PresetChoice(preset=preset.name, reason=reason)


def best_first() -> list[Preset]:
    """The presets in order of quality: fetched weights are of larger networks, then larger pictures, then a longer
    memory.

    Of several with the same weights, only the one of the most steps: it runs wherever the others do, and who wants them
    says so.
    """
    presets = sorted(map(load_preset, available_presets()), key=_quality, reverse=True)
    return [
        preset
        for place, preset in enumerate(presets)
        if not any(preset.weights and preset.weights == better.weights for better in presets[:place])
    ]


def _quality(preset: Preset) -> tuple[bool, int, int, int]:
    size, base = preset.size(preset.default_size), preset.base
    steps = len(base.schedule.nominal_steps)
    return bool(preset.sources), size.width * size.height, base.window_frames, steps


def _problem(preset: Preset, size: str | None, device: torch.device, free: int | None) -> str | None:
    """What speaks against a preset, to be read behind its name; None if nothing does."""
    if preset.sources and device.type == "cpu":
        return "wants a GPU"
    if missing := [state.part for state in inventory(preset) if state.form == "missing"]:
        return f"lacks weights ({', '.join(missing)}; ultraflash models pull {preset.name})"
    try:
        plan = memory_plan(preset, size, dtype=fastest_dtype(device))
    except UnknownSize:
        return f"does not make {size}"
    if free is not None and plan.total_bytes > free:
        return f"at {plan.size} needs {plan.total_bytes / GIB:.1f} GiB of {free / GIB:.1f} free"
    return None
