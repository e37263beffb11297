"""How processes of this program are started that run another module of it."""

from __future__ import annotations

import sys

# The working directory must not hide packages, and safe-path options came only with Python 3.11.
_BOOT = """import sys
sys.path[:] = [entry for entry in sys.path if entry]
from {module} import main
main()"""


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that calls ``main`` of a module, which finds these arguments in ``sys.argv``."""
    return [sys.executable, "-c", _BOOT.format(module=module), *arguments]
