"""Steps of a Dockerfile carried out in real chroots, on this machine's own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = """FROM nothing:1.0 AS base
ENV COLOUR=red PATH=/own:$PATH

FROM base AS made
ARG WORD=default
WORKDIR /src
COPY pyproject.toml ./
COPY server ./server
RUN test -f server/app.py && mkdir /out && echo "$WORD $COLOUR $PATH" > /out/word && pwd > /out/where

FROM base
RUN --mount=type=bind,from=made,source=/out,target=/mounted cp /mounted/word /word && ! touch /mounted/new 2>/dev/null
COPY --from=made /out /copied
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
WORKDIR /data
RUN id -u > mine && ! touch /root-only 2>/dev/null
CMD ["true"]
"""
DRIVER = """import sys
from pathlib import Path
from chroot_build import Build, Container
work, context = map(Path, sys.argv[1:])
base = Container(root=work / "base", shared=(Path("/usr"),))
text = (work / "Dockerfile").read_text()
Build(text, context=context, work=work, base=base, arguments={"WORD": "given"}).run()
"""
NAMESPACES = [
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]


@pytest.fixture
def work(tmp_path: Path, docker_dir: Path) -> Path:
    """A folder with a base whose programs are this machine's."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path("/bin").is_symlink():
        pytest.skip("needs root, unshare and a merged /usr")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounts and processes cannot be kept apart here")
    base = tmp_path / "base"
    base.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (base / name).symlink_to(f"usr/{name}")
    tmp_path.chmod(0o755)
    return tmp_path


def build(work: Path, text: str, docker_dir: Path) -> subprocess.CompletedProcess[str]:
    (work / "Dockerfile").write_text(text)
    command = [*NAMESPACES, sys.executable, "-c", DRIVER, str(work), str(docker_dir.parent)]
    environment = {**os.environ, "PYTHONPATH": str(docker_dir)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_stages_do_what_their_instructions_say_and_leave_no_mounts(work: Path, docker_dir: Path) -> None:
    done = build(work, DOCKERFILE, docker_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    final = work / "stage-2-final"
    path = "/own:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (final / "word").read_text() == f"given red {path}\n"
    assert (final / "copied" / "where").read_text() == "/src\n"
    assert (final / "data" / "mine").read_text() == "10001\n"
    assert not (final / "mounted").exists()
    assert not (final / "root-only").exists()
    assert str(work) not in Path("/proc/self/mounts").read_text()
    assert list((final / "usr").iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("RUN exit 3", "RUN ended with 3"),
        ("COPY tests /t", "nothing in the context"),
        ("ADD x /x", "ADD is not known"),
    ],
)
def test_a_step_that_fails_ends_the_build(work: Path, docker_dir: Path, line: str, said: str) -> None:
    done = build(work, f"FROM nothing:1.0\n{line}\n", docker_dir)
    assert done.returncode != 0
    assert said in done.stderr
