"""Passes a request on to a replica and its answer back, in pieces as they come."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import httpx
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ultraflash.server.error_response import error_body, error_response
from ultraflash.server.errors import NotReady
from ultraflash.server.replicas.directory import Directory
from ultraflash.server.replicas.replica import Replica

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


class NoSuchTarget(Exception):
    """A request for what is no path, or for one that cannot be in an address."""


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
    """Path and query as they were sent, in ASCII. Raises ``NoSuchTarget``."""
    scope = connection.scope
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    if not path.startswith(b"/"):
        # Behind host and port it would go on with them: `%2F@evil.example` makes an address of another machine.
        raise NoSuchTarget
    query = scope["query_string"]
    target = path + (b"?" + query if query else b"")
    return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in target)


def url_at(replica: Replica, connection: HTTPConnection) -> httpx.URL:
    """What was asked for, at a replica. Raises ``NoSuchTarget``."""
    host, _, port = replica.address.rpartition(":")
    target = target_of(connection).encode("ascii")
    try:
        return httpx.URL(scheme="http", host=host, port=int(port), raw_path=target)
    except httpx.InvalidURL as error:
        raise NoSuchTarget from error


def no_replica(directory: Directory) -> Response:
    """The answer where nobody could be asked."""
    message = "No replica answers; try again."
    return error_response(NotReady(message, retry_after_s=directory.retry_after_s()))


def not_found() -> Response:
    """The answer where there is nothing that could be asked for."""
    return JSONResponse(error_body("not_found", "Not Found", param=None, status=404), status_code=404)


async def relay(request: Request, replica: Replica | None, directory: Directory) -> Response:
    """The answer of a replica; of another one, where that one is lost and asking twice does no harm."""
    try:
        return await _relay_to_one(request, replica, directory)
    except NoSuchTarget:
        return not_found()
    except ClientDisconnect:
        # It went before its body was here, so nobody reads this.
        return Response(status_code=400)


async def _relay_to_one(request: Request, replica: Replica | None, directory: Directory) -> Response:
    if replica is None:
        return no_replica(directory)
    try:
        return await _relay(request, replica, directory.http)
    except httpx.TransportError as error:
        log.warning("replica %d did not answer %s: %s", replica.number, request.url.path, error)
        never_left = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    if request.method not in REPEATABLE and not never_left:
        return no_replica(directory)
    others = [seen.replica for seen in await directory.look() if seen.ready and seen.replica != replica]
    if not others:
        return no_replica(directory)
    try:
        return await _relay(request, others[0], directory.http)
    except httpx.TransportError:
        return no_replica(directory)


async def _relay(request: Request, replica: Replica, http: httpx.AsyncClient) -> Response:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    asked = http.build_request(
        request.method,
        url_at(replica, request),
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
    """The answers of all replicas to a small GET, and the refusal that is to be passed on where there is one.

    A replica that fails is left out; the request is refused where all fail, or where one says what is wrong with it.
    """
    answers: dict[Replica, httpx.Response] = {}
    refusal: Response | None = None
    for seen in await directory.look():
        if seen.state is None:
            continue
        try:
            url = url_at(seen.replica, request)
            answer = await directory.http.get(url, headers=forwarded_headers(request), timeout=30.0)
        except NoSuchTarget:
            return {}, not_found()
        except httpx.TransportError as error:
            log.warning("replica %d did not answer %s: %s", seen.replica.number, request.url.path, error)
            continue
        if not answer.is_error:
            answers[seen.replica] = answer
            continue
        kind = answer.headers.get("content-type")
        refusal = Response(answer.content, status_code=answer.status_code, media_type=kind)
        if answer.is_client_error:
            return {}, refusal
        log.warning("replica %d fails at %s: %d", seen.replica.number, request.url.path, answer.status_code)
    return answers, None if answers else refusal or no_replica(directory)
