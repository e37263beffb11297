"""Stages of a Dockerfile carried out in chroots instead of an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import dockerfile

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ONLY_NOTED = {"LABEL", "EXPOSE", "STOPSIGNAL", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


class BuildFailed(Exception):
    """A step did not do what the Dockerfile says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A root folder and how commands run in it.

    Attributes:
        user: ``uid:gid``.
        shared: files and folders of this machine that are seen at the same place inside, read-only.
    """

    root: Path
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH})
    folder: str = "/"
    user: str = "0:0"
    shared: tuple[Path, ...] = ()

    def command(self, words: Sequence[str], *, network: bool = True) -> list[str]:
        """The command of this machine that runs ``words`` inside; without network there is the loopback alone."""
        entry = 'cd "$0" && exec "$@"'
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["env", "-i", *environment, "/bin/sh", "-c", entry, self.folder, *words]
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), *inside]
        alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        return chroot if network else [*alone, *chroot]

    def mount_system(self) -> None:
        """Lays /proc, /dev, the names of hosts and what is shared."""
        for name in ("/proc", "/dev"):
            self.inside(name).mkdir(exist_ok=True)
        mount("-t", "proc", "proc", self.inside("/proc"))
        mount("--rbind", "/dev", self.inside("/dev"))
        for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *self.shared):
            self.show(path.resolve(), str(path), "-o", "ro")

    def show(self, path: Path, target: str, *options: str) -> None:
        """Binds a file or folder of this machine to a place inside."""
        place = self.inside(target)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount("--bind", *options, path, place)

    def inside(self, path: str) -> Path:
        """Where a path of the container lies; relative ones start at its folder."""
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


def mount(*words: str | Path) -> None:
    """Mounts, in the mount namespace that the caller has made for itself."""
    subprocess.run(["mount", *map(str, words)], check=True)


class Build:
    """Carries out the stages of one Dockerfile, each in a folder of its own."""

    def __init__(
        self, text: str, *, context: Path, work: Path, base: Container, arguments: Mapping[str, str]
    ) -> None:
        self._stages = dockerfile.stages(text)
        self._context = context
        self._work = work
        self._base = base
        self._arguments = arguments
        self._done: dict[str, Container] = {}

    def run(self) -> Container:
        """Builds every stage; returns the last one."""
        for number, stage in enumerate(self._stages):
            name = stage.name or "final"
            print(f"== stage {name} from {stage.base}", flush=True)
            parent = self._done.get(stage.base, self._base)
            root = self._work / f"stage-{number}-{name}"
            root.mkdir()
            subprocess.run(["cp", "-a", f"{parent.root}/.", str(root)], check=True)
            # A mount of its own, so that all that is mounted in it goes with it and no copy takes it along.
            mount("--bind", root, root)
            container = replace(parent, root=root)
            container.mount_system()
            self._done[name] = self._carry_out(stage, container)
            subprocess.run(["umount", "--recursive", "--lazy", str(root)], check=True)
        return self._done[name]

    def _carry_out(self, stage: dockerfile.Stage, container: Container) -> Container:
        arguments: dict[str, str] = {}
        for one in stage.instructions:
            started = time.monotonic()
            if one.name == "RUN":
                self._run(one, container, arguments)
            elif one.name == "COPY":
                self._copy(one, container)
            elif one.name == "ARG":
                arguments |= {key: self._arguments.get(key, value) for key, value in one.pairs().items()}
            elif one.name == "ENV":
                known = dict(container.environment)
                added = {key: expanded(value, known) for key, value in one.pairs().items()}
                container = replace(container, environment=known | added)
            elif one.name == "WORKDIR":
                container = replace(container, folder=str(Path(container.folder) / one.text))
                container.inside(".").mkdir(parents=True, exist_ok=True)
            elif one.name == "USER":
                container = replace(container, user=one.text)
            elif one.name not in ONLY_NOTED:
                raise BuildFailed(f"line {one.line}: {one.name} is not known here")
            print(f"   {time.monotonic() - started:6.1f} s  {one.name} {one.text[:90]}", flush=True)
        return container

    def _run(self, one: dockerfile.Instruction, container: Container, arguments: Mapping[str, str]) -> None:
        bound = [self._bind(value, container) for name, value in one.flags if name == "mount"]
        known = replace(container, environment={**container.environment, **arguments})
        done = subprocess.run(known.command(["/bin/sh", "-c", one.text]))
        for place in bound:
            subprocess.run(["umount", str(place)], check=True)
            place.rmdir()
        if done.returncode:
            raise BuildFailed(f"line {one.line}: RUN ended with {done.returncode}")

    def _bind(self, value: str, container: Container) -> Path:
        options = dict(part.split("=", 1) for part in value.split(","))
        if options["type"] != "bind":
            raise BuildFailed(f"a mount of type {options['type']} is not known here")
        source = self._done[options["from"]].inside(options["source"])
        container.show(source, options["target"], "-o", "ro")
        return container.inside(options["target"])

    def _copy(self, one: dockerfile.Instruction, container: Container) -> None:
        *sources, target = one.words()
        place = container.inside(target)
        if stage := one.flag("from"):
            place.mkdir(parents=True, exist_ok=True)
            for source in sources:
                subprocess.run(["cp", "-a", f"{self._done[stage].inside(source)}/.", str(place)], check=True)
            return
        sent = dockerfile.context_files(self._context)
        for source in sources:
            below = Path(source)
            chosen = [path for path in sent if path.is_relative_to(below)]
            if not chosen:
                raise BuildFailed(f"line {one.line}: nothing in the context is {source}")
            for path in chosen:
                goal = place / (path.name if path == below else path.relative_to(below))
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._context / path, goal)


def expanded(text: str, known: Mapping[str, str]) -> str:
    """``$NAME`` replaced by its value."""
    return re.sub(r"\$(\w+)", lambda found: known.get(found[1], ""), text)
