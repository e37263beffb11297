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
# The script has no ending that import knows.
CONFINED = """import subprocess, sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
import chroot_build, dockerfile
work, script = map(Path, sys.argv[1:])
loader = SourceFileLoader("trial", str(script))
trial = module_from_spec(spec_from_loader("trial", loader))
loader.exec_module(trial)
text = (work / "Dockerfile").read_text()
base = chroot_build.Container(root=work / "base")
built = chroot_build.Build(text, context=work, work=work, base=base, arguments={}).run()
(stage,) = dockerfile.stages(text)
container = trial.as_compose_runs_it(stage, built, work)
command = ["sh", "-c", "echo $ULTRAFLASH_KEYS__FIRST_FILE > up && exec sleep 600"]
server = subprocess.Popen(container.command(command, network=False))
trial.wait_for_health(stage, container, server)
trial.check_confinement(container)
server.terminate()
print("ended with", server.wait(60))
"""
SERVER = """FROM nothing:1.0
ENV ULTRAFLASH_KEYS__FIRST_FILE=/data/first-key
RUN mkdir -p /data /weights /tmp && chown 10001:10001 /data /weights
VOLUME ["/data", "/weights"]
USER 10001:10001
WORKDIR /data
HEALTHCHECK --interval=1s CMD ["/bin/sh", "-c", "test -e /data/up"]
"""
PROGRAMS = ("sh", "env", "id", "sleep", "mkdir", "chown")
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


def test_a_server_is_healthy_unprivileged_and_can_write_to_its_volumes_alone(
    work: Path, docker_dir: Path
) -> None:
    shutil.rmtree(work / "base")
    for name in PROGRAMS:
        program = Path(shutil.which(name) or name).resolve()
        needed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
        libraries = [word for word in needed.split() if word.startswith("/")]
        for source, target in ((str(program), f"/bin/{name}"), *((one, one) for one in libraries)):
            place = work / "base" / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    for folder in ("usr", "opt/ultraflash", "etc"):
        (work / "base" / folder).mkdir(parents=True, exist_ok=True)
    (work / "Dockerfile").write_text(SERVER)
    command = [*NAMESPACES, sys.executable, "-c", CONFINED, str(work), str(docker_dir / "try-without-engine")]
    environment = {**os.environ, "PYTHONPATH": str(docker_dir)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "user 10001 can write to /data /weights /tmp alone" in done.stdout
    assert "ended with -15" in done.stdout
    kept = work / "volumes" / "data" / "up"
    assert (kept.read_text(), kept.stat().st_uid) == ("/data/first-key\n", 10001)
