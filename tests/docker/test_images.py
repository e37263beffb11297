"""Both images, by what their Dockerfiles say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dockerfile
import pytest

from ultraflash.server.settings import load_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("Dockerfile", "Dockerfile.cpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Tag with at least a minor version, as 3.12.1-slim or v3.5.0; a digest may follow.
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")


@pytest.fixture(params=NAMES)
def stages(request: pytest.FixtureRequest, docker_dir: Path) -> list[dockerfile.Stage]:
    return dockerfile.stages((docker_dir / request.param).read_text())


def environment(stages: list[dockerfile.Stage]) -> dict[str, str]:
    """Of the last stage, with what it inherits."""
    found: dict[str, str] = {}
    for stage in (stages[0], stages[-1]):
        for one in stage.instructions:
            found |= one.pairs() if one.name == "ENV" else {}
    return found


def test_bases_are_stages_or_pinned_images(stages: list[dockerfile.Stage]) -> None:
    known: set[str] = set()
    for stage in stages:
        assert stage.base in known or PINNED.fullmatch(stage.base), stage.base
        known.add(stage.name)


def test_the_last_user_is_a_number_and_not_root_and_the_image_makes_it(
    stages: list[dockerfile.Stage],
) -> None:
    *_, last = stages
    user = last.last("USER")
    assert user is not None
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text)
    uid, gid = user.text.split(":")
    runs = " ".join(one.text for one in last.instructions if one.name == "RUN")
    assert f"groupadd --gid {gid} " in runs
    assert f"useradd --uid {uid} --gid {gid} " in runs
    assert f"--owner={uid} --group={gid} " in runs
    position = last.instructions.index(user)
    assert "RUN" not in {one.name for one in last.instructions[position:]}, "no step after it needs root"


def test_health_is_readiness_asked_by_the_packages_own_python(stages: list[dockerfile.Stage]) -> None:
    command = dockerfile.health_command(stages[-1])
    assert command[0] == "/opt/ultraflash/bin/python"
    serve = stages[-1].last("CMD")
    assert serve is not None
    port = serve.words()[serve.words().index("--port") + 1]
    assert f"http://127.0.0.1:{port}/readyz" in command[-1]
    compile(command[-1], "HEALTHCHECK", "exec")
    exposed = stages[-1].last("EXPOSE")
    assert exposed is not None
    assert exposed.text == port


def test_every_source_of_a_copy_exists_where_it_is_taken_from(stages: list[dockerfile.Stage]) -> None:
    sent = dockerfile.context_files(ROOT)
    earlier: set[str] = set()
    for stage in stages:
        for one in stage.instructions:
            if one.name == "COPY" and (source := one.flag("from")):
                assert source in earlier, f"line {one.line}"
            elif one.name == "COPY":
                for path in one.words()[:-1]:
                    assert any(file.is_relative_to(path) for file in sent), f"line {one.line}: {path}"
            elif one.name == "RUN" and (mount := one.flag("mount")):
                assert dict(part.split("=", 1) for part in mount.split(","))["from"] in earlier
        earlier.add(stage.name)


def test_the_context_holds_what_the_wheel_is_made_of_and_nothing_else() -> None:
    sent = {path.as_posix() for path in dockerfile.context_files(ROOT)}
    assert {"pyproject.toml", "setup.py", PROJECT["readme"], *PROJECT["license-files"]} <= sent
    folders = {path.split("/")[0] for path in sent if "/" in path}
    assert folders == {"kernels", "models", "server", "training", "docker"}
    assert [path for path in sent if path.startswith("docker/")] == ["docker/THIRD_PARTY.md"]
    assert not [path for path in sent if "__pycache__" in path or path.startswith(".git")]
    for part in ("models/weights", "server/web"):
        files = [
            path for path in (ROOT / part).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        assert {path.relative_to(ROOT).as_posix() for path in files} <= sent


def test_the_start_is_safe_and_says_what_to_set(
    stages: list[dockerfile.Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = environment(stages)
    assert variables["PYTHONSAFEPATH"] == "1"
    for name, value in variables.items():
        if name.startswith("ULTRAFLASH_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(None, {"http.host": "0.0.0.0"})
    assert settings.http.allowed_hosts == ("127.0.0.1", "localhost")
    assert settings.http.key_required
    volumes = stages[-1].last("VOLUME")
    assert volumes is not None
    file = settings.keys.first_file
    assert file is not None
    assert any(file.is_relative_to(volume) for volume in volumes.words())


def test_what_programs_write_goes_to_the_volumes(stages: list[dockerfile.Stage]) -> None:
    volumes = stages[-1].last("VOLUME")
    assert volumes is not None
    assert volumes.words() == ["/data", "/weights"]
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert any(Path(environment(stages)[name]).is_relative_to(volume) for volume in volumes.words())


def test_the_signal_that_stops_it_is_the_one_that_the_server_heeds(stages: list[dockerfile.Stage]) -> None:
    stop = stages[-1].last("STOPSIGNAL")
    assert stop is not None
    assert stop.text == "SIGTERM"


def test_both_images_and_the_makefile_agree_on_torch_and_on_what_they_share(docker_dir: Path) -> None:
    texts = [(docker_dir / name).read_text() for name in NAMES]
    versions = {version for text in texts for version in re.findall(r"ARG TORCH_VERSION=(\S+)", text)}
    assert versions == set(
        re.findall(r"^CPU_TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    )
    cuda, cpu = (dockerfile.stages(text) for text in texts)
    assert [stage.base for stage in cuda] == [stage.base for stage in cpu]
    for name in ("USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD", "WORKDIR", "STOPSIGNAL"):
        pair = [stages[-1].last(name) for stages in (cuda, cpu)]
        assert pair[0] is not None
        assert pair[1] is not None
        assert pair[0].text == pair[1].text


def test_the_extras_of_the_cuda_image_exist(docker_dir: Path) -> None:
    (names,) = re.findall(r"^ARG EXTRAS=(\S+)", (docker_dir / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert set(names.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_licence_of_the_encoder_is_told_where_the_image_is_shipped(
    stages: list[dockerfile.Stage],
) -> None:
    label = stages[-1].last("LABEL")
    assert label is not None
    assert "GPL-2.0-or-later" in label.pairs()["org.opencontainers.image.licenses"]
    assert any(
        "docker/THIRD_PARTY.md" in one.words() for one in stages[-1].instructions if one.name == "COPY"
    )
