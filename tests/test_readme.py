"""What the README promises is run, exists, and was measured."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from ultraflash.models.preset import available_presets, load_preset
from ultraflash.training.commands import STAGES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()

# Commands that CI runs in another form, by what CI runs instead.
STAND_INS = {
    # hours of training: the same code with the smallest recipe
    "ultraflash train all --recipe mini": "ultraflash train all --recipe debug",
    "ultraflash train all --recipe mini-gpu": "ultraflash train all --recipe debug",
    # the same program with fewer groups, on the smallest size
    "python benchmarks/cascade.py --json benchmarks/results/cascade.json": "python benchmarks/cascade.py --sizes 0.5K",
    # fewer streams, and none of minutes
    "ultraflash eval mini": "ultraflash eval mini --quick",
    # the same command line, started and asked whether it is ready
    "ultraflash serve --host 127.0.0.1 --port 8000": "make serve",
}


def commands() -> list[str]:
    """Lines of the README's shell blocks, without comments and without the folder of the environment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = (shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines())
    return [line.replace(".venv/bin/", "") for line in lines if line]


def run_by_ci(command: str) -> bool:
    """Whether a line of .ci/run starts this command; its options may go on there."""
    lines = CI.replace("\\\n", " ").splitlines()
    flat = [
        " ".join(line.split()).replace("'", "").replace('"', "") for line in lines if not line.startswith("#")
    ]
    return any(command.replace("'", "") in line for line in flat)


def test_the_readme_names_commands() -> None:
    assert {"make serve", "make test"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_run_by_ci(command: str) -> None:
    assert run_by_ci(STAND_INS.get(command, command)), f"{command}: add it to .ci/run"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists(), (
        f"{link} is missing{' (`make readme` makes it)' if '.github' in link else ''}"
    )


def test_the_table_of_measurements_is_the_one_in_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("cascade", "readme_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    readme_table = importlib.import_module("readme_table")
    try:
        filled = readme_table.fill(README)
    except readme_table.NoResults as error:
        pytest.fail(str(error), pytrace=False)
    assert filled == README, "run `python benchmarks/readme_table.py`"


def test_the_stages_of_training_are_those_there_are() -> None:
    listed = re.search(r"stages, in this order: ([^.]+)", README)
    assert listed
    assert re.findall(r"`(\w+)`", listed[1]) == list(STAGES)


def test_the_table_of_presets_gives_their_sizes_and_names_those_that_ship_with_weights() -> None:
    presets = {name: load_preset(name) for name in available_presets()}
    rows = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", README, flags=re.MULTILINE))
    assert {name for name, preset in presets.items() if preset.weights} <= rows.keys() <= presets.keys()
    for name, listed in rows.items():
        sizes = ", ".join(f"{size.name} {size.width}x{size.height}" for size in presets[name].sizes)
        assert listed.strip() == sizes
