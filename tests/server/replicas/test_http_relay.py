"""What the front asks a replica for, and what it does when one does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.requests import Request

from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.http_relay import ask_all, relay
from ultraflash.server.replicas.replica import Replica
from ultraflash.server.replicas.state import STATE_PATH, ReplicaState

FIRST = Replica(number=0, address="127.0.0.1:9000")
SECOND = Replica(number=1, address="127.0.0.1:9001")

Answer = Callable[[httpx.Request], httpx.Response]


class Asked(httpx.AsyncBaseTransport):
    """Requests that have reached a replica, but for those of the front itself."""

    def __init__(self, answer: Answer) -> None:
        self.urls: list[str] = []
        self.bodies: list[bytes] = []
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == STATE_PATH:
            return httpx.Response(200, json=ReplicaState(ready=True).model_dump(mode="json"))
        self.urls.append(str(request.url))
        answer = self._answer(request)
        self.bodies.append(await request.aread())
        return answer

    def directory(self) -> Directory:
        http = httpx.AsyncClient(transport=self)
        return Directory(
            lambda: [FIRST, SECOND],
            secret="x" * 16,
            complete=lambda: True,
            next_try_s=lambda: None,
            retry_after_s=5,
            http=http,
        )


def request(raw_path: bytes, *, method: str = "GET", body: bytes | None = b"") -> Request:
    """A request as uvicorn hands it on; without a body the client goes before it has sent one."""
    headers = [(b"host", b"video.example.com")]
    if method == "POST":
        headers.append((b"content-length", str(len(body or b"x")).encode()))

    async def receive() -> dict[str, Any]:
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
    }
    return Request(scope, receive)


def fine(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="fine")


@pytest.mark.parametrize("path", [b"%2F@evil.example/x", b"@evil.example/x", b".evil.example/x", b""])
async def test_no_path_leads_to_another_machine(path: bytes) -> None:
    asked = Asked(fine)
    directory = asked.directory()
    if path:
        answer = await relay(request(path), FIRST, directory)
        assert answer.status_code == 404
        answers, refusal = await ask_all(request(path), directory)
        assert (answers, refusal.status_code if refusal else None) == ({}, 404)
        assert asked.urls == []
    await relay(request(b"/" + path), FIRST, directory)
    await ask_all(request(b"/" + path), directory)
    assert {httpx.URL(url).host for url in asked.urls} == {"127.0.0.1"}


async def test_bytes_of_a_path_that_are_no_ascii_stay_what_they_are() -> None:
    asked = Asked(fine)
    await relay(request("/assets/é b".encode().replace(b" ", b"%20")), FIRST, asked.directory())
    assert asked.urls == ["http://127.0.0.1:9000/assets/%C3%A9%20b"]


@pytest.mark.parametrize(
    ("lost", "asked_of"),
    [(httpx.ConnectError, [9000, 9001]), (httpx.ConnectTimeout, [9000, 9001]), (httpx.ReadError, [9000])],
)
async def test_what_changes_something_goes_to_another_replica_only_if_it_never_left(
    lost: type[httpx.TransportError], asked_of: list[int]
) -> None:
    def answer(sent: httpx.Request) -> httpx.Response:
        if sent.url.port == 9000:
            raise lost("gone")
        return fine(sent)

    asked = Asked(answer)
    given = await relay(request(b"/v1/videos", method="POST", body=b"a hill"), FIRST, asked.directory())
    assert [httpx.URL(url).port for url in asked.urls] == asked_of
    assert given.status_code == (200 if len(asked_of) == 2 else 503)
    assert asked.bodies == [b"a hill"] * (len(asked_of) - 1)


async def test_a_client_that_goes_before_its_body_is_here_is_no_fault() -> None:
    asked = Asked(fine)
    answer = await relay(request(b"/v1/videos", method="POST", body=None), FIRST, asked.directory())
    assert answer.status_code == 400


async def test_one_replica_that_fails_does_not_fail_what_all_are_asked_for() -> None:
    def answer(sent: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if sent.url.port == 9000 else fine(sent)

    answers, refusal = await ask_all(request(b"/metrics"), Asked(answer).directory())
    assert (list(answers), refusal) == ([SECOND], None)


@pytest.mark.parametrize("status", [401, 500])
async def test_what_all_refuse_is_refused_as_they_do(status: int) -> None:
    asked = Asked(lambda _: httpx.Response(status, text="no"))
    answers, refusal = await ask_all(request(b"/metrics"), asked.directory())
    assert answers == {}
    assert refusal is not None
    assert (refusal.status_code, refusal.body) == (status, b"no")
