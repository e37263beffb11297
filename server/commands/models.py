"""Show, fetch and check the weights of presets.

For example: ultraflash models list, ultraflash models pull ultraflash-1k, ultraflash models verify

Weights are fetched from the Hugging Face hub (HF_TOKEN and HF_HOME are honoured) into ~/.cache/ultraflash, or into
the folder that ULTRAFLASH_MODELS names.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from ultraflash.models.inventory import PartState
    from ultraflash.models.preset import Preset

WRONG = 1
"""Exit status of a check that found something."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", help="presets, and which of their weights are here")
    pull = verbs.add_parser("pull", help="fetch and convert the weights that a preset lacks")
    pull.add_argument("preset", help="name of a preset, or path of a TOML file")
    verify = verbs.add_parser("verify", help="check digests, names and shapes of what is here")
    verify.add_argument("preset", nargs="*", help="which presets (default: those whose weights are all here)")


def run(args: argparse.Namespace) -> int:
    """Runs the verb; 0 when all is well, 1 when `verify` found something."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if args.verb == "list":
        return show(console)
    if args.verb == "pull":
        return pull(console, args.preset)
    return check(console, args.preset)


def show(console: Console) -> int:
    """Prints a line for every preset that comes with the package, and under it what is missing."""
    from ultraflash.models.inventory import extras, inventory

    for preset in _shipped():
        states = inventory(preset)
        missing = [state for state in states if state.form == "missing"]
        unconverted = [state.part for state in states if state.form == "official"]
        sizes = ", ".join(f"{size.name} {size.pixels}" for size in preset.sizes)
        console.print(f"{preset.name:<16} {_summary(states):<22} {sizes}", markup=False)
        console.print(f"{'':<16} {preset.description}", markup=False)
        for state in missing:
            console.print(f"{'':<16} lacks {state.part}: {state.reason}", markup=False)
        for state in extras(preset):
            have = f"lacks {state.part}" if state.form == "missing" else f"has {state.part}"
            console.print(f"{'':<16} {have}, for streams that start from pictures", markup=False)
        if missing or unconverted:
            verb = "fetch" if missing else f"convert {', '.join(unconverted)} for a faster start"
            console.print(f"{'':<16} {verb}: ultraflash models pull {preset.name}", markup=False)
    return 0


def pull(console: Console, name: str) -> int:
    """Fetches and converts. Raises HubUnreachable, MissingExtra, MissingWeights, UnknownPreset."""
    from ultraflash.models import hub
    from ultraflash.models.preset import load_preset

    preset = load_preset(name)
    fetched = hub.pull(preset, say=lambda line: console.print(line, markup=False))
    done = "everything was here already" if not fetched else f"{len(fetched)} parts fetched and converted"
    console.print(f"{preset.name}: {done}", markup=False)
    return 0


def check(console: Console, names: Iterable[str]) -> int:
    """Verifies the named presets, or all whose weights are here. Raises UnknownPreset."""
    from ultraflash.models.inventory import inventory, verify
    from ultraflash.models.preset import load_preset

    presets = [load_preset(name) for name in names] or [
        preset for preset in _shipped() if all(state.form != "missing" for state in inventory(preset))
    ]
    failed = False
    for preset in presets:
        problems = verify(preset)
        console.print(f"{preset.name}: {'wrong' if problems else 'ok'}", markup=False)
        for part, problem in problems.items():
            console.print(f"  {part}: {problem}", markup=False)
        failed = failed or bool(problems)
    return WRONG if failed else 0


def _shipped() -> list[Preset]:
    from ultraflash.models.preset import available_presets, load_preset

    return [load_preset(name) for name in available_presets()]


def _summary(states: Iterable[PartState]) -> str:
    forms = [state.form for state in states]
    here = len(forms) - forms.count("missing")
    return "ready" if set(forms) == {"ready"} else f"{here} of {len(forms)} parts here"
