"""A server that wants keys, and the keys of two people who know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from key_holders import Holder, make_key
from live_server import LiveServer

from ultraflash.server.keys.records import KeyLimits

LIMITS = KeyLimits(
    max_sessions=1, max_jobs=2, max_pixels_per_s=416 * 240 * 16, max_prompt_chars=40, max_body_bytes=4096
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that wants keys, and logs as much as it can."""
    folder = tmp_path_factory.mktemp("guarded")
    options = ("--auth", "required", "--log-level", "debug", "--log-format", "json")
    with LiveServer(folder, *options, stream__max_streams=8, keys__check_every_s=0.2) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def ann(guarded: LiveServer) -> Holder:
    return make_key(guarded, "ann", LIMITS)


@pytest.fixture(scope="module")
def bob(guarded: LiveServer) -> Holder:
    return make_key(guarded, "bob")
