from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from ultraflash.models.loading import part_folder
from ultraflash.models.preset import load_preset
from ultraflash.models.weights import sha256_of
from ultraflash.training.evaluation.classifier import CLASSIFIER_FILE
from ultraflash.training.evaluation.commands import add_arguments, run
from ultraflash.training.vista.scene import WORLD


def test_long_streams_alone_leave_the_files_of_a_full_evaluation_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("evaluation.json", "report.html"):
        (tmp_path / name).write_text("of a full evaluation")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["-o", str(tmp_path), "--long-only", "--long-seconds", "0"])) == 0
    assert (tmp_path / "evaluation.json").read_text() == "of a full evaluation"
    assert (tmp_path / "report.html").read_text() == "of a full evaluation"
    assert json.loads((tmp_path / "long-streams.json").read_text())["preset"] == "mini"
    assert (tmp_path / "long-streams.html").is_file()
    assert "long-streams.json" in capsys.readouterr().out


def test_an_evaluation_of_another_world_or_by_another_classifier_is_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"preset": "mini", "measures": {}}))
    words = ["-o", str(tmp_path), "--long-only", "--long-seconds", "0", "--compare", str(earlier)]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(words)) == 2
    assert "Vista 1" in capsys.readouterr().err
    document = {"preset": "mini", "world": WORLD, "measures": {}}
    earlier.write_text(json.dumps(document))
    assert run(parser.parse_args(words)) == 2
    assert "does not say by which classifier" in capsys.readouterr().err
    document["classifier_sha256"] = "0" * 64
    earlier.write_text(json.dumps(document))
    assert run(parser.parse_args(words)) == 2
    assert "another classifier" in capsys.readouterr().err
    sha256 = sha256_of(part_folder(load_preset("mini"), "decoder") / CLASSIFIER_FILE)
    earlier.write_text(json.dumps(document | {"classifier_sha256": sha256}))
    assert run(parser.parse_args(words)) == 0
    written = json.loads((tmp_path / "long-streams.json").read_text())
    assert (written["world"], written["classifier_sha256"]) == (WORLD, sha256)
