"""The listening socket, tuned so that video does not pile up inside the kernel."""

from __future__ import annotations

import socket

from ultraflash.server.errors import BadOption

UNSENT_BYTES = 128 * 1024
BACKLOG = 256


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one.

    Without a low-water mark for unsent data several megabytes, seconds of video, would wait in the socket before a
    send blocks. Accepted connections inherit it. Raises ``BadOption`` where the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise BadOption(
            f"Cannot listen on {host} port {port}: {error.strerror or error}.", param="port"
        ) from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return listener


def address_of(listener: socket.socket) -> str:
    """``http://host:port/`` of a bound socket, as a person would type it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"
