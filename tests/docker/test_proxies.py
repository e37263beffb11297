"""The page and the stream through real reverse proxies, on the configurations that we tell people to use."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from live_server import LiveServer, StreamClient
from proxy import NAME, Proxy, caddy, nginx

from ultraflash.server.protocol import MediaFlags

GROUP = 12
GROUPS = 6
EXAMPLES = {"nginx": (nginx, "nginx.conf"), "caddy": (caddy, "Caddyfile")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that answers to the proxy's name and makes one group of frames ahead of what was acknowledged."""
    hosts = f'["{NAME}","127.0.0.1"]'
    folder = tmp_path_factory.mktemp("server")
    with LiveServer(
        folder,
        "--allow-unauthenticated",
        http__allowed_hosts=hosts,
        stream__ahead_ms=100,
        stream__max_streams=8,
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module", params=EXAMPLES)
def proxy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    docker_dir: Path,
    server: LiveServer,
) -> Iterator[Proxy]:
    """Each proxy that this machine has."""
    for program in (request.param, "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here; Debian's package {program} has it")
    make, example = EXAMPLES[request.param]
    with make(docker_dir / example, tmp_path_factory.mktemp(request.param), server.address) as running:
        yield running


def trust(proxy: Proxy) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(proxy.certificate))


def fetch(
    proxy: Proxy, path: str, *, name: str = "", method: str = "GET", body: bytes | None = None
) -> http.client.HTTPResponse:
    """One request over TLS, with the name that a browser would send; ``name`` is another one for Host alone."""
    connection = http.client.HTTPSConnection(NAME, proxy.port, context=trust(proxy), timeout=120)
    connection._create_connection = lambda _address, *rest: socket_to(proxy)  # type: ignore[attr-defined]
    connection.request(method, path, body=body, headers={"Host": name or f"{NAME}:{proxy.port}"})
    return connection.getresponse()


def socket_to(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=120)


@asynccontextmanager
async def client(proxy: Proxy, **options: object) -> AsyncIterator[StreamClient]:
    """A stream through the proxy, as the page at its address opens it."""
    address = f"wss://{NAME}:{proxy.port}/v1/stream"
    options.setdefault("origin", f"https://{NAME}:{proxy.port}")
    where = {"host": "127.0.0.1", "port": proxy.port, "ssl": trust(proxy), "server_hostname": NAME}
    async with websockets.connect(address, max_size=None, **where, **options) as opened:  # type: ignore[arg-type]
        yield StreamClient(opened)


def test_the_page_comes_over_tls_with_our_headers_and_those_of_the_proxy(proxy: Proxy) -> None:
    answer = fetch(proxy, "/")
    assert answer.status == 200
    assert b"<html" in answer.read()
    assert "default-src 'none'" in (answer.headers["Content-Security-Policy"] or "")
    assert answer.headers["Strict-Transport-Security"]


def test_plain_http_is_sent_to_tls(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain_port, timeout=120)
    connection.request("GET", "/readyz", headers={"Host": NAME})
    answer = connection.getresponse()
    assert answer.status in (301, 308)
    assert (answer.headers["Location"] or "").startswith(f"https://{NAME}")


def test_metrics_are_not_for_the_world_and_readiness_is(proxy: Proxy) -> None:
    assert fetch(proxy, "/metrics").status == 404
    assert fetch(proxy, "/readyz").status == 200


def test_tokens_in_addresses_are_not_in_the_log_of_the_proxy(proxy: Proxy) -> None:
    log = proxy.folder / "access.log"
    for query in ("token=uf_secretive", "ticket=uf_secretive"):
        fetch(proxy, f"/v1/sessions/session_logged/recording?{query}").read()
    deadline = time.monotonic() + 60
    while log.read_text().count("session_logged") < 2:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    assert "uf_secretive" not in log.read_text()


def test_another_host_name_gets_nothing_from_the_server(proxy: Proxy) -> None:
    try:
        answer = fetch(proxy, "/", name="other.example.com")
    except ConnectionError:
        return
    assert b"<html" not in answer.read()


def test_a_body_beyond_the_limit_is_refused_by_the_proxy(proxy: Proxy) -> None:
    # Caddy 2.6 notices while it hands the body on, and calls that a bad gateway; later ones say 413 too.
    refusals = {413} if proxy.command[0] == "nginx" else {413, 502}
    answers = [
        fetch(proxy, path, method="POST", body=b"0" * size).status
        for path, size in (("/v1/models", 70_000), ("/v1/models", 60_000), ("/v1/videos", 70_000))
    ]
    assert [status in refusals for status in answers] == [True, False, False], answers


async def test_a_page_of_another_origin_may_not_stream(proxy: Proxy) -> None:
    async with client(proxy, origin="https://other.example.com") as stream:
        assert await stream.until_closed() == (1008, "origin not allowed")


async def groups_in_lockstep(stream: StreamClient) -> list[float]:
    """Milliseconds from making to receiving each frame; a group is acknowledged when all of it is here.

    The server makes nothing more until then, so a byte that someone holds back ends this.
    """
    stream.acknowledge = False
    await stream.start()
    delays: list[float] = []
    while len(delays) < 9 + GROUP * GROUPS:
        got = await stream.step()
        if isinstance(got, dict):
            assert got["type"] != "error", got
        elif MediaFlags.INIT not in got.flags:
            delays.append(time.time() * 1000 - got.capture_ms)
            if (len(delays) - 9) % GROUP == 0:
                await stream.ack(got)
    assert [header.seq for header, _ in stream.frames()] == list(range(len(delays)))
    return delays


async def test_frames_come_through_at_once(proxy: Proxy, server: LiveServer) -> None:
    async with client(proxy) as through, server.client() as straight:
        delayed = statistics.median(await groups_in_lockstep(through))
        direct = statistics.median(await groups_in_lockstep(straight))
    assert delayed - direct < 500


async def test_a_stream_is_steered_and_ends_through_the_proxy(proxy: Proxy) -> None:
    async with client(proxy) as stream:
        await stream.start("a red hill", seed=1)
        await stream.until_frame(10)
        await stream.send("prompt.update", prompt="a blue hill", event_id="turn")
        await stream.until("prompt.applied", event_id="turn")
        await stream.send("session.stop")
        await stream.until("session.done")
        assert (await stream.until_closed())[0] == 1000
