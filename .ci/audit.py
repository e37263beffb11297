"""Looks the installed dependencies up in PyPI's database of known holes, by pip-audit.

Status: 0 none known, 1 some known, 2 pip-audit failed, 69 (EX_UNAVAILABLE) the database cannot be reached, or knows
none of the packages, and so nothing was looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGE = "ultraflash"
DATABASE = "https://pypi.org/pypi/pip/json"
PATIENCE_S = 15
FAILED = 2
UNAVAILABLE = 69


def pinned() -> dict[str, str]:
    """Version of every package that the installed one brings, extras included, as far as they are installed.

    A build of one's own, such as 2.13.0+cpu, has the holes of the version that it is a build of.
    """
    found: dict[str, str] = {}
    waiting = [
        (PACKAGE, extra) for extra in ("", *distribution(PACKAGE).metadata.get_all("Provides-Extra", []))
    ]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if name != PACKAGE:
            found[name] = Version(installed.version).public
        for text in installed.requires or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            for part in ("", *wanted.extras):
                step = (canonicalize_name(wanted.name), part)
                if step not in seen:
                    seen.add(step)
                    waiting.append(step)
    found.pop(PACKAGE, None)
    return dict(sorted(found.items()))


def reachable(url: str = DATABASE) -> bool:
    """Whether the database answers."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        print(f"not audited: {url} cannot be reached ({error})", file=sys.stderr)
        return False


def verdict(report: dict[str, Any]) -> int:
    """Says what pip-audit has found, and which status that is.

    What the database does not know is no proof of anything: where it knows none of the packages, nothing was audited.
    """
    known = [one for one in report["dependencies"] if "skip_reason" not in one]
    unknown = [one["name"] for one in report["dependencies"] if "skip_reason" in one]
    for one in known:
        for hole in one["vulns"]:
            fixed = ", ".join(hole["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {hole['id']}, fixed in {fixed}")
    print(f"{len(known)} of {len(report['dependencies'])} packages are known to the database")
    if not known:
        print("not audited: the database knows none of the packages", file=sys.stderr)
        return UNAVAILABLE
    if unknown:
        print(f"not audited: {', '.join(unknown)}", file=sys.stderr)
    return int(any(one["vulns"] for one in known))


def main() -> int:
    """Audits."""
    if not reachable():
        return UNAVAILABLE
    lines = [f"{name}=={version}" for name, version in pinned().items()]
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "installed.txt"
        file.write_text("\n".join(lines))
        command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(file)]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        report = json.loads(run.stdout)
    except ValueError:
        print(f"pip-audit failed:\n{run.stderr}", file=sys.stderr)
        return FAILED
    return verdict(report)


if __name__ == "__main__":
    sys.exit(main())
