"""Evaluate a cascade that knows Vista, on prompts that it was not trained on.

Adherence, camera, realism, changes of prompt and drift go to OUTPUT/evaluation.json and OUTPUT/report.html, frames of
the long streams to OUTPUT/long-streams.png as well. With --long-only, measures and report go to long-streams.json and
long-streams.html in OUTPUT, so that those of a full evaluation stay.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraflash.models.errors import BadConfig, UltraflashError
from ultraflash.training.vista.scene import WORLD

if TYPE_CHECKING:
    from ultraflash.models.preset import Preset
    from ultraflash.training.evaluation.suite import SuiteConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``ultraflash eval``."""
    parser.add_argument("preset", nargs="?", default="mini", help="name or TOML file (default: mini)")
    parser.add_argument("-o", "--output", type=Path, default=Path("evaluation"), help="folder of the report")
    parser.add_argument(
        "--classifier", type=Path, help="folder with encoder and classifier (default: the preset's)"
    )
    parser.add_argument("--quick", action="store_true", help="few and short streams: minutes, wide intervals")
    parser.add_argument("--long-seconds", type=float, help="length of the long streams; 0 leaves them out")
    parser.add_argument(
        "--long-only",
        action="store_true",
        help="make the long streams alone, for OUTPUT/long-streams.json and .html",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compare", type=Path, metavar="JSON", help="an earlier evaluation.json to stand beside this"
    )
    parser.add_argument(
        "--gate",
        action="store_true",
        help="with --compare: end with status 1 where a bar is surely missed by more",
    )


def run(args: argparse.Namespace) -> int:
    """Run ``ultraflash eval``. Returns 0, 1 when the gate finds a regression, 2 for a mistake in the call."""
    try:
        return _evaluate(args)
    except UltraflashError as error:
        print(f"ultraflash eval: {error.message}", file=sys.stderr)
        return 2


def _evaluate(args: argparse.Namespace) -> int:
    from ultraflash.models.cascade import Cascade
    from ultraflash.models.preset import load_preset
    from ultraflash.training.evaluation.bars import BARS, number_at, regressions, value_of
    from ultraflash.training.evaluation.classifier import FrameReader
    from ultraflash.training.evaluation.contact_sheet import contact_sheet
    from ultraflash.training.evaluation.report import write_report
    from ultraflash.training.evaluation.suite import QUICK, SuiteConfig, evaluate, evaluate_long

    if args.gate and args.compare is None:
        raise BadConfig("--gate wants something to --compare with", param="gate")
    config = replace(QUICK if args.quick else SuiteConfig(), seed=args.seed)
    if args.long_seconds is not None:
        config = replace(config, long_seconds=args.long_seconds)
    preset = load_preset(args.preset)
    reader = FrameReader.of(preset, args.classifier)
    before = _read(args.compare, reader.sha256) if args.compare is not None else None
    cascade = Cascade.load(preset)
    make = evaluate_long if args.long_only else evaluate
    result = make(cascade, reader, config, say=lambda text: print(text, file=sys.stderr))
    args.output.mkdir(parents=True, exist_ok=True)
    document = _document(preset, config, reader.sha256, result.measures)
    written, report = (
        ("long-streams.json", "long-streams.html") if args.long_only else ("evaluation.json", "report.html")
    )
    (args.output / written).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_report(
        args.output / report,
        title=f"{preset.name}: evaluation",
        measures=result.measures,
        before=before,
        clips=result.clips,
        held_out_clips=result.held_out_clips,
        drawn_clips=result.drawn_clips,
        long_streams=result.long_streams,
    )
    if result.long_streams:
        contact_sheet(result.long_streams).save(args.output / "long-streams.png")
    for bar in BARS:
        value = value_of(number_at(result.measures, bar.path))
        if value is not None:
            verdict = "met" if bar.is_met(value) else "not met"
            print(f"{bar.title}: {value:.3g} (wanted {bar.wanted}: {verdict})")
    print(f"wrote {args.output / written} and {args.output / report}")
    worse = list(regressions(before, result.measures)) if before is not None else []
    for line in worse:
        print(f"worse: {line}")
    return 1 if args.gate and worse else 0


def _document(
    preset: Preset, config: SuiteConfig, classifier_sha256: str, measures: dict[str, Any]
) -> dict[str, Any]:
    """What was measured, of which weights (None where no manifest names them), by which classifier, and where."""
    import torch

    from ultraflash.models.loading import part_folder
    from ultraflash.models.weights import MANIFEST, sha256_of

    manifest = part_folder(preset, "base") / MANIFEST
    return {
        "preset": preset.name,
        "weights_sha256": sha256_of(manifest) if manifest.exists() else None,
        "classifier_sha256": classifier_sha256,
        "machine": {
            "system": platform.platform(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "world": WORLD,
        "settings": asdict(config),
        "measures": measures,
    }


def _read(path: Path, classifier_sha256: str) -> dict[str, Any]:
    """The measures of an earlier evaluation, if they can stand beside those that this classifier reads."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        # Evaluations of the first world don't name it.
        measures, world = dict(document["measures"]), document.get("world", 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadConfig(
            f"{path} is no evaluation.json of an earlier run: {error}", param="compare"
        ) from error
    if world != WORLD:
        raise BadConfig(
            f"{path} was measured on scenes of Vista {world}, and this would be on others, of Vista {WORLD}; "
            "evaluate those weights again",
            param="compare",
        )
    classifier = document.get("classifier_sha256")
    if classifier is None:
        raise BadConfig(
            f"{path} does not say by which classifier it was measured; evaluate those weights again",
            param="compare",
        )
    if classifier != classifier_sha256:
        raise BadConfig(
            f"{path} was measured by another classifier; evaluate those weights again, or these with --classifier "
            "FOLDER of the other one",
            param="compare",
        )
    return measures
