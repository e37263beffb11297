"""Who may talk to the server, by Host and Origin."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from ultraflash.server.origins import host_allowed, host_name, origin_allowed
from ultraflash.server.settings import HttpSettings

LOCAL = HttpSettings()
PUBLIC = HttpSettings(host="0.0.0.0")
NAMED = HttpSettings(
    host="0.0.0.0", allowed_hosts=("video.example",), allowed_origins=("https://app.example",)
)


@pytest.mark.parametrize(
    ("authority", "name"),
    [("localhost:8000", "localhost"), ("[::1]:8000", "::1"), ("A.Example", "a.example"), ("", ""), ("[", "")],
)
def test_names_are_read_from_authorities(authority: str, name: str) -> None:
    assert host_name(authority) == name


@pytest.mark.parametrize(
    ("settings", "host", "allowed"),
    [
        (LOCAL, "127.0.0.1:8000", True),
        (LOCAL, "localhost", True),
        (LOCAL, "[::1]:8000", True),
        (LOCAL, "rebound.example:8000", False),
        (LOCAL, "", False),
        (PUBLIC, "anything.example", True),
        (NAMED, "video.example", True),
        (NAMED, "other.example", False),
    ],
)
def test_on_loopback_only_loopback_names_are_answered(
    settings: HttpSettings, host: str, allowed: bool
) -> None:
    assert host_allowed(settings, Headers({"host": host})) == allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://video.example", True),
        ("https://app.example", True),
        ("https://app.example.evil", False),
        ("https://video.example:444", False),
        ("null", False),
        ("", False),
    ],
)
def test_pages_of_the_same_or_a_configured_origin_may_stream(origin: str | None, allowed: bool) -> None:
    headers = {"host": "video.example"} | ({} if origin is None else {"origin": origin})
    assert origin_allowed(NAMED, Headers(headers)) == allowed
