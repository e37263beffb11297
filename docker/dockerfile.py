"""Dockerfiles as data: enough of their grammar for ours, for the tests and for ``try-without-engine``."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction, its lines joined.

    Attributes:
        name: in capitals.
        flags: such as ``from`` of ``COPY --from=build``; each may come more than once.
        text: the rest.
        line: where it starts, from 1.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    text: str
    line: int

    def flag(self, name: str) -> str | None:
        """Value of a flag, or None."""
        return dict(self.flags).get(name)

    def words(self) -> list[str]:
        """Arguments, of the JSON form or split as a shell would."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    def pairs(self) -> dict[str, str]:
        """``KEY=value`` arguments of ENV, LABEL and ARG; an ARG without a default is empty."""
        return {key: value for key, _, value in (word.partition("=") for word in self.words())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From one FROM to the next.

    Attributes:
        base: an image, or the name of an earlier stage.
        name: after AS; empty for none.
    """

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> Instruction | None:
        """The instruction of that name that counts."""
        return next((one for one in reversed(self.instructions) if one.name == name), None)


def instructions(text: str) -> Iterator[Instruction]:
    """Reads a Dockerfile. Comment lines may stand between the lines of an instruction."""
    parts: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        start = start if parts else number
        parts.append(line.strip().removesuffix("\\").rstrip())
        if not line.rstrip().endswith("\\"):
            yield _instruction(" ".join(parts), start)
            parts = []
    if parts:
        raise ValueError(f"line {start}: an instruction without an end")


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile, first to last."""
    found: list[Stage] = []
    for one in instructions(text):
        if one.name == "FROM":
            base, *rest = one.words()
            found.append(Stage(base=base, name=rest[1] if len(rest) == 2 else ""))
        elif found:
            found[-1].instructions.append(one)
        else:
            raise ValueError(f"line {one.line}: {one.name} before the first FROM")
    return found


def health_command(stage: Stage) -> list[str]:
    """What HEALTHCHECK runs."""
    check = stage.last("HEALTHCHECK")
    if check is None or not check.text.startswith("CMD "):
        raise ValueError("no HEALTHCHECK CMD")
    return [str(word) for word in json.loads(check.text.removeprefix("CMD ").strip())]


def context_files(root: Path) -> list[Path]:
    """Files that ``docker build`` would send, relative to the root, by its ``.dockerignore``."""
    lines = (root / ".dockerignore").read_text().splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in folders
            if not _ignored(here / name, rules)
            or any(Path(rule).is_relative_to(here / name) for rule in kept)
        ]
        found += [here / name for name in files if not _ignored(here / name, rules)]
    return sorted(found)


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.partition(" ")
    flags = []
    rest = rest.strip()
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags.append((found[1], found[2]))
        rest = rest[found.end() :]
    return Instruction(name=name.upper(), flags=tuple(flags), text=rest, line=line)


def _ignored(path: Path, rules: list[str]) -> bool:
    """The last rule that fits a path or one of its parents decides."""
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    ignored = False
    for rule in rules:
        pattern = re.escape(rule.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        pattern = pattern.replace(r"\[", "[").replace(r"\]", "]")
        if any(re.fullmatch(pattern, name) for name in names):
            ignored = not rule.startswith("!")
    return ignored
