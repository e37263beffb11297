"""What the wheel holds, against the tree that it was built from."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kernels", "models", "server", "training")


def tree_files() -> list[Path]:
    """Paths, relative to the root, of every file that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: a build in place would pick up what earlier builds left there."""
    copy = tmp_path_factory.mktemp("source")
    for path in tree_files():
        if path.parts[0] in PARTS or len(path.parts) == 1:
            (copy / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, copy / path)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)], check=True)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_every_part_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {f"ultraflash/{path.as_posix()}" for path in tree_files() if path.parts[0] in PARTS}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held - expected == set()
    assert expected - held == set()


@pytest.mark.parametrize(
    "name",
    [
        "models/presets/mini.toml",
        "models/weights/mini/base.safetensors",
        "models/weights/mini/SHA256SUMS",
        "models/weights/text/vocab.txt",
        "server/PROTOCOL.md",
        "server/web/index.html",
        "server/web/app.js",
        "training/debug.toml",
        "training/vista/held_out.toml",
        "training/vista/DATA_CARD.md",
    ],
)
def test_the_wheel_holds_what_is_read_while_it_runs(wheel: zipfile.ZipFile, name: str) -> None:
    assert f"ultraflash/{name}" in wheel.namelist()


def test_the_namespace_has_no_init_so_that_other_distributions_can_add_to_it(wheel: zipfile.ZipFile) -> None:
    assert "ultraflash/__init__.py" not in wheel.namelist()


def test_the_licence_travels_with_the_wheel(wheel: zipfile.ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert "Apache License" in wheel.read(licence).decode()


def test_every_entry_point_names_a_module_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    (listed,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(listed).decode())
    for group in ("console_scripts", "ultraflash.commands"):
        for target in entry_points[group].values():
            stem = target.partition(":")[0].replace(".", "/")
            assert {f"{stem}.py", f"{stem}/__init__.py"} & set(wheel.namelist()), target
