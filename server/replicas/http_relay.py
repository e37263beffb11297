"""Passes a request on to a replica and its answer back, in pieces as they come."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping

import httpx
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse

from ultraflash.server.error_response import error_response
from ultraflash.server.errors import NotReady
from ultraflash.server.replicas.directory import Directory, Replica

log = logging.getLogger(__name__)

# Of one connection, not of what it carries (RFC 9110, 7.6.1).
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
REPEATABLE = ("GET", "HEAD", "OPTIONS")
CONNECT_WITHIN_S = 5.0


def open_client() -> httpx.AsyncClient:
    """Connections to replicas: no limit on how long an answer may take, since live video is one."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    timeout = httpx.Timeout(None, connect=CONNECT_WITHIN_S)
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)


def forwarded_headers(connection: HTTPConnection) -> list[tuple[str, str]]:
    """The client's headers, and from where it came. What it said about that itself is left out."""
    dropped = HOP_BY_HOP | FORWARDED
    headers = [(name, value) for name, value in connection.headers.items() if name not in dropped]
    if connection.client is not None:
        headers.append(("x-forwarded-for", connection.client.host))
    scheme = {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme)
    headers.append(("x-forwarded-proto", scheme))
    return headers


def target_of(connection: HTTPConnection) -> str:
    """Path and query as they were sent."""
    scope = connection.scope
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def no_replica() -> Response:
    """The answer where nobody could be asked."""
    return error_response(NotReady("No replica answers; try again."))


async def relay(request: Request, replica: Replica | None, directory: Directory) -> Response:
    """The answer of a replica; of another one, where that one is lost and asking twice does no harm."""
    if replica is None:
        return no_replica()
    try:
        return await _relay(request, replica, directory.http)
    except httpx.TransportError as error:
        log.warning("replica %d did not answer %s: %s", replica.number, request.url.path, error)
    if request.method not in REPEATABLE:
        return no_replica()
    others = [seen.replica for seen in await directory.look() if seen.ready and seen.replica != replica]
    if not others:
        return no_replica()
    try:
        return await _relay(request, others[0], directory.http)
    except httpx.TransportError:
        return no_replica()


async def _relay(request: Request, replica: Replica, http: httpx.AsyncClient) -> Response:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    asked = http.build_request(
        request.method,
        f"http://{replica.address}{target_of(request)}",
        headers=forwarded_headers(request),
        content=request.stream() if has_body else None,
    )
    answer = await http.send(asked, stream=True)
    response = StreamingResponse(
        _pieces(answer), status_code=answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if name.lower().decode("latin-1") not in HOP_BY_HOP
    ]
    return response


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        # Also when the client has gone, so that the replica stops.
        await answer.aclose()


async def ask_all(
    request: Request, directory: Directory
) -> tuple[Mapping[Replica, httpx.Response], Response | None]:
    """The answers of all replicas to a small GET, and the first refusal among them as it is to be passed on."""
    answers: dict[Replica, httpx.Response] = {}
    for seen in await directory.look():
        if seen.state is None:
            continue
        try:
            url = f"http://{seen.replica.address}{target_of(request)}"
            answer = await directory.http.get(url, headers=forwarded_headers(request), timeout=30.0)
        except httpx.TransportError:
            continue
        if answer.is_error:
            kind = answer.headers.get("content-type")
            refusal = Response(answer.content, status_code=answer.status_code, media_type=kind)
            return {}, refusal
        answers[seen.replica] = answer
    return answers, None if answers else no_replica()
