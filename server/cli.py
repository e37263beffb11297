"""The ``ultraflash`` command. Its sub-commands are entry points of the group ``ultraflash.commands``.

An entry point is a module with a docstring, which is its help, ``add_arguments(parser)`` and ``run(args) -> int``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Protocol, cast

from ultraflash.models.errors import UltraflashError

GROUP = "ultraflash.commands"
USER_ERROR = 2
INTERRUPTED = 130


class Command(Protocol):
    """A sub-command."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Does the work; returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command. Errors that the user can mend are one line, and the status is 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    found = {point.name: point for point in entry_points(group=GROUP)}
    # Only the command that is asked for gets imported: the trainer's imports must not slow the server's start.
    chosen = arguments[0] if arguments and arguments[0] in found else None
    parser = _parser(found, chosen)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return USER_ERROR
    try:
        return cast(Command, args.command).run(args)
    except UltraflashError as error:
        print(f"ultraflash: {error.message}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(found: dict[str, EntryPoint], chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ultraflash", description="Type a prompt, watch the video stream in, steer it."
    )
    parser.add_argument("--version", action="version", version=f"ultraflash {version('ultraflash')}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in [chosen] if chosen else sorted(found):
        _add_command(commands, name, cast(Command, found[name].load()))
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command
) -> None:
    text = command.__doc__ or ""
    parser = commands.add_parser(
        name,
        help=text.strip().split("\n", 1)[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(command=command)
