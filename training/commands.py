"""Train a stage of the cascade, or all of them in order.

Every stage resumes from its last checkpoint when the same command runs again, writes its log, samples and
evaluation under RUN_DIR/STAGE, or under a folder for each network that it trains, and its weights under
RUN_DIR/weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ultraflash.models.compilation import compiling
from ultraflash.models.errors import BadConfig, UltraflashError
from ultraflash.training.loop import StageConfig

STAGES = {
    "patches": "ultraflash.training.patches",
    "latents": "ultraflash.training.latents",
    "rare_latents": "ultraflash.training.latents",
    "classifier": "ultraflash.training.classifier",
    "pictures": "ultraflash.training.base",
    "base": "ultraflash.training.base",
    "trajectory": "ultraflash.training.trajectory",
    "few_step": "ultraflash.training.few_step",
    "interpolate": "ultraflash.training.interpolate",
    "four_steps": "ultraflash.training.trajectory",
    "seams": "ultraflash.training.seams",
    "autoencoder": "ultraflash.training.autoencoder",
    "upsampler": "ultraflash.training.upsampler",
    "sr": "ultraflash.training.super_resolution",
    "decoder": "ultraflash.training.decoder",
}
"""Stages in the order of ``train all``, and the module that runs each: its ``run(config, run_dir)`` returns
whether the stage is done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``ultraflash train``."""
    parser.add_argument("stage", choices=[*STAGES, "all"], help="what to train")
    parser.add_argument(
        "--recipe",
        choices=("mini", "mini-gpu", "debug"),
        default="mini",
        help="mini-gpu trains the generator on a GPU; debug runs in under a minute a stage",
    )
    parser.add_argument("--run-dir", type=Path, help="where everything goes (default: runs/RECIPE)")
    parser.add_argument(
        "--minutes",
        type=float,
        help="end after this many minutes of training, which the networks of a stage share",
    )
    parser.add_argument("--steps", type=int, help="end after this many steps, of each network of a stage")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="change one setting of the stage's config, e.g. --set learning_rate=1e-4; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Run ``ultraflash train``. Returns 0 when done, 3 when a signal stopped it, 2 for a mistake in the call."""
    import torch

    from ultraflash.training import recipes

    makers = {"mini": recipes.mini, "mini-gpu": recipes.mini_gpu, "debug": recipes.debug}
    recipe: dict[str, StageConfig] = makers[args.recipe]()
    run_dir = args.run_dir or Path("runs") / args.recipe
    names = [name for name in STAGES if name in recipe] if args.stage == "all" else [args.stage]
    try:
        if missing := [name for name in names if name not in recipe]:
            raise BadConfig(f"recipe {args.recipe} has no stage {missing[0]}; it has {', '.join(recipe)}")
        if args.threads is not None:
            if args.threads < 1:
                raise BadConfig(f"--threads starts at 1, unlike {args.threads}", param="threads")
            torch.set_num_threads(args.threads)
        # All configs before the first stage: a wrong setting should not show after hours of training.
        configs = {name: with_overrides(recipe[name], _overrides(args)) for name in names}
        for name, config in configs.items():
            if config.device.startswith("cuda") and not torch.cuda.is_available():
                raise BadConfig(
                    f"stage {name} trains on {config.device}, and PyTorch can use no GPU here; "
                    "choose another --recipe, or --set device=cpu",
                    param="device",
                )
        for name, config in configs.items():
            # The compiler is slow to import, and most stages do without.
            compiles = getattr(config, "compile", False)
            with compiling("compile") if compiles else nullcontext():
                done = import_module(STAGES[name]).run(config, run_dir)
            if not done:
                return 3
    except UltraflashError as error:
        print(f"ultraflash train: {error.message}", file=sys.stderr)
        return 2
    return 0


def with_overrides(config: StageConfig, overrides: dict[str, Any]) -> StageConfig:
    """A copy of ``config`` with some fields changed; text is turned into the field's type.

    Raises BadConfig for a name that the stage doesn't have, or a value of another type.
    """
    hints = get_type_hints(type(config))
    known = {field.name for field in fields(config)}
    values = {}
    for name, value in overrides.items():
        if name not in known:
            raise BadConfig(
                f"this stage has no setting {name!r}; it has {', '.join(sorted(known))}", param=name
            )
        values[name] = _typed(name, value, hints[name]) if isinstance(value, str) else value
    return replace(config, **values)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for text in args.overrides:
        name, separator, value = text.partition("=")
        if not separator:
            raise BadConfig(f"--set takes NAME=VALUE, not {text!r}")
        overrides[name] = value
    overrides |= {name: value for name in ("minutes", "steps") if (value := vars(args)[name]) is not None}
    return overrides


def _typed(name: str, text: str, hint: Any) -> Any:
    optional = get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint)
    if optional and text == "none":
        return None
    kind = get_args(hint)[0] if optional else hint
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind not in (int, float, str):
        raise BadConfig(f"{name} can't be set from the command line", param=name)
    try:
        return kind(text)
    except ValueError as error:
        raise BadConfig(f"{name} takes a {kind.__name__}, not {text!r}", param=name) from error


def main(argv: Sequence[str] | None = None) -> int:
    """``python -P -m ultraflash.training.commands train ...``, for a checkout that is not installed."""
    parser = argparse.ArgumentParser(prog="ultraflash")
    train = parser.add_subparsers(dest="command", required=True).add_parser("train", description=__doc__)
    add_arguments(train)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
