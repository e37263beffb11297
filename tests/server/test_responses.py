"""What every response tells the browser, and what a foreign page or name gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import websockets
from videos_client import ask

from ultraflash.server.app import create_app
from ultraflash.server.origins import RESPONSE_HEADERS
from ultraflash.server.settings import load_settings

if TYPE_CHECKING:
    from live_server import LiveServer

FOREIGN = "https://evil.example"


def check_headers(headers: object) -> None:
    for name, value in RESPONSE_HEADERS.items():
        assert headers[name] == value, name  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/assets/app.js", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/nothing", {}, 404),
        ("GET", "/v1/videos?limit=none", {}, 422),
        ("DELETE", "/healthz", {}, 405),
        ("POST", "/v1/videos", {"Origin": FOREIGN}, 403),
        ("GET", "/v1/videos", {"Host": "rebound.example"}, 421),
        ("GET", "/v1/sessions/session_00/recording?token=x", {}, 404),
        ("POST", "/v1/videos", {"Content-Length": str(10**9)}, 413),
    ],
)
def test_every_response_carries_the_security_headers(
    server: LiveServer, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = ask(server, method, path, None, headers)
    assert answer.status == status
    check_headers(answer.headers)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_foreign_page_changes_nothing(server: LiveServer) -> None:
    changing = [
        (verb.upper(), path)
        for path, item in ask(server, "GET", "/v1/openapi.json").json["paths"].items()
        for verb in item
        if verb in ("post", "put", "patch", "delete")
    ]
    assert len(changing) >= 7
    before = [video["id"] for video in ask(server, "GET", "/v1/videos").json["data"]]
    # The types that a form can have, for which a browser asks nobody first.
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=cut", "text/plain"):
        for method, path in changing:
            for origin in (FOREIGN, "null"):
                headers = {"Origin": origin, "Content-Type": kind}
                answer = ask(server, method, path, b"prompt=a+hill&seconds=1", headers)
                assert (answer.status, answer.code) == (403, "origin_not_allowed"), (method, path)
    ours = {"Origin": f"http://{server.address}"}
    assert ask(server, "POST", "/v1/videos", {"prompt": ""}, ours).status == 400
    assert [video["id"] for video in ask(server, "GET", "/v1/videos").json["data"]] == before


async def test_a_fault_is_of_the_one_shape_and_tells_nothing(tmp_path: Path) -> None:
    app = create_app(load_settings(None, {"data.folder": tmp_path}))

    async def fail() -> None:
        raise RuntimeError("a secret of the inside")

    app.add_api_route("/v1/fail", fail)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.get("/v1/fail")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "server_fault")
    assert "secret" not in response.text
    check_headers(response.headers)


def test_the_policy_lets_nothing_in_from_elsewhere_and_runs_no_inline_code() -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in RESPONSE_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == policy["base-uri"] == "'none'"
    for name, sources in policy.items():
        allowed = {"'none'", "'self'"} | ({"data:", "blob:"} if name in ("img-src", "media-src") else set())
        assert set(sources.split()) <= allowed, name


def test_the_page_has_no_inline_code(server: LiveServer) -> None:
    page = ask(server, "GET", "/").body.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style|javascript:", page) == []
    assert re.findall(r"(?:src|href)=\"(?!/|#)", page) == []


def test_a_foreign_page_is_not_told_that_it_may_read(server: LiveServer) -> None:
    for method in ("GET", "OPTIONS"):
        answer = ask(
            server, method, "/v1/videos", None, {"Origin": FOREIGN, "Access-Control-Request-Method": "GET"}
        )
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_a_foreign_page_opens_no_stream(server: LiveServer) -> None:
    async with server.client(origin=FOREIGN) as client:
        assert (await client.until_closed())[0] == 1008


async def test_a_foreign_name_that_points_here_opens_no_stream(server: LiveServer) -> None:
    port = int(server.address.rsplit(":", 1)[1])
    # To the browser page and stream are of one site, whose name leads here by now.
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(
            f"ws://rebound.example:{port}/v1/stream",
            origin=f"http://rebound.example:{port}",  # type: ignore[arg-type]
            host="127.0.0.1",
            port=port,
        ):
            pass
    assert refused.value.response.status_code == 403


def test_a_foreign_name_that_points_here_gets_nothing(server: LiveServer) -> None:
    for path in ("/", "/v1/videos", "/healthz"):
        answer = ask(server, "GET", path, None, {"Host": "rebound.example:80"})
        assert (answer.status, answer.code) == (421, "host_not_allowed")
