"""The page on deploying says what is so."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import dockerfile
import pytest
import yaml

from ultraflash.server.settings import Settings


@pytest.fixture(scope="module")
def page(docker_dir: Path) -> str:
    return (docker_dir / "DEPLOY.md").read_text()


def test_every_link_and_file_it_names_exists(page: str, docker_dir: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page)
    named = re.findall(r"docker/([\w.-]+)", page)
    assert links
    for path in {*links, *named}:
        assert (docker_dir / path).exists(), path


def test_every_setting_it_names_exists_with_that_default(page: str) -> None:
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", page, flags=re.MULTILINE)
    defaults = {name: value.strip() for names, value in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert {"stream.max_streams", "stream.ahead_ms", "http.allowed_hosts"} <= set(defaults)
    for name in {*defaults, *re.findall(r"`((?:stream|http)\.\w+)`", page)}:
        value: object = Settings()
        for part in name.split("."):
            assert hasattr(value, part), name
            value = getattr(value, part)
        if (told := defaults.get(name, "")).isdigit():
            assert value == ast.literal_eval(told)


def test_every_command_it_names_is_understood(page: str) -> None:
    named = re.findall(r"\bultraflash ((?:keys|models|doctor)(?: [\w-]+)*)", page)
    assert {"doctor", "models pull ultraflash-1k", "keys revoke first"} <= set(named)
    for text in named:
        name, *words = text.split()
        parser = argparse.ArgumentParser()
        importlib.import_module(f"ultraflash.server.commands.{name}").add_arguments(parser)
        parser.parse_args(words)


def test_ports_and_users_are_those_of_compose_and_the_image(page: str, docker_dir: Path) -> None:
    services = yaml.safe_load((docker_dir / "compose.yaml").read_text())["services"]
    for service in services.values():
        for port in service["ports"]:
            assert port.rsplit(":", 1)[0] in page
    user = dockerfile.stages((docker_dir / "Dockerfile").read_text())[-1].last("USER")
    assert user is not None
    assert f"chown {user.text} " in page


def test_the_systemd_unit_starts_a_command_that_exists_and_waits_for_it(docker_dir: Path) -> None:
    unit = (docker_dir / "ultraflash.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)
    assert shlex.split(start)[1:4] == ["serve", "--host", "127.0.0.1"]
    variables = dict(
        word.split("=", 1)
        for line in re.findall(r"^Environment=(.*)$", unit, flags=re.MULTILINE)
        for word in shlex.split(line)
    )
    assert variables["PYTHONSAFEPATH"] == "1"
    for folder in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert re.match(r"/var/(lib|cache)/ultraflash", variables[folder])
